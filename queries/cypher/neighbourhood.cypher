// The features one step from a feature, earlier and later together, strongest first.
// $key: text        the feature
// $min: float = 0   smallest abs(z) to return
// $limit: int = 20  how many to return
// -> direction: text, key: text, layer: int, label: text, weight: float, z: float, share: float
MATCH (f:Feature {key: $key})-[e:FEEDS]-(n:Feature)
WHERE abs(e.z) >= $min
RETURN CASE WHEN n.layer < f.layer THEN 'in' ELSE 'out' END AS direction, n.key AS key, n.layer AS layer,
  n.label AS label, e.weight AS weight, e.z AS z, e.share AS share
ORDER BY abs(e.z) DESC, key
LIMIT $limit
