// The tokens whose embedding one feature reads, strongest first.
// $key: text        the feature
// $by: text = "z"   what the order and $min go by: z, weight or share
// $sign: int = 0    1 for positive weights only, -1 for negative only, 0 for both
// $min: float = 0   smallest size to return
// $limit: int = 20  how many to return
// -> key: text, label: text, weight: float, z: float, share: float
MATCH (:Feature {key: $key})<-[e:ACTIVATES]-(t:Token)
WHERE e.weight * $sign >= 0
WITH t, e, CASE WHEN $by = 'weight' THEN abs(e.weight) WHEN $by = 'share' THEN e.share ELSE abs(e.z) END AS size
WHERE size >= $min
RETURN t.key AS key, t.text AS label, e.weight AS weight, e.z AS z, e.share AS share
ORDER BY size DESC, key
LIMIT $limit
