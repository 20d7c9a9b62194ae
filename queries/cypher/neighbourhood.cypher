// The features one step from a feature, earlier and later together, strongest first.
// $key: text        the feature
// $by: text = "z"   what the order and $min go by: z, weight, share, drive, twera or coactivation
// $sign: int = 0    1 for positive weights only, -1 for negative only, 0 for both
// $min: float = 0   smallest size to return
// $live: int = 0    1 for what is active together on the observed text only
// $limit: int = 20  how many to return
// -> direction: text, key: text, layer: int, label: text, weight: float, z: float, share: float, n_both: int,
//    drive: float, twera: float
MATCH (f:Feature {key: $key})-[e:FEEDS]-(n:Feature)
// What is not asked for has size -1, as in the query named inputs.
WITH f, n, e, CASE WHEN ($sign <> 0 AND e.weight * $sign < 0) OR ($live = 1 AND coalesce(e.n_both, 0) = 0) THEN -1.0
  WHEN $by = 'weight' THEN abs(e.weight) WHEN $by = 'share' THEN e.share
  WHEN $by = 'drive' THEN abs(e.drive_active) WHEN $by = 'twera' THEN abs(e.twera)
  WHEN $by = 'coactivation' THEN e.n_both * 1.0 ELSE abs(e.z) END AS size
WHERE size >= 0 AND size >= $min
RETURN CASE WHEN n.layer < f.layer THEN 'in' ELSE 'out' END AS direction, n.key AS key, n.layer AS layer,
  n.label AS label, e.weight AS weight, e.z AS z, e.share AS share, e.n_both AS n_both, e.drive_active AS drive,
  e.twera AS twera
ORDER BY size DESC, key
LIMIT $limit
