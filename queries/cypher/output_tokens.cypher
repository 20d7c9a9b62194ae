// The tokens whose logit one feature writes to, strongest first.
// $key: text        the feature
// $by: text = "z"   what the order and $min go by: z, weight, share, drive, twera or coactivation
// $sign: int = 0    1 for positive weights only, -1 for negative only, 0 for both
// $min: float = 0   smallest size to return
// $live: int = 0    1 for features that fire on the observed text only
// $limit: int = 20  how many to return
// -> key: text, label: text, weight: float, z: float, share: float, n_both: int,
//    drive: float, twera: float
MATCH (:Feature {key: $key})-[e:PROMOTES]->(t:Token)
// What is not asked for has size -1: a condition on the nodes alone would let an engine read all of them first.
WITH t, e, CASE WHEN ($sign <> 0 AND e.weight * $sign < 0)
    OR ($live = 1 AND e.drive_active IS NULL) THEN -1.0
  WHEN $by = 'weight' THEN abs(e.weight) WHEN $by = 'share' THEN e.share
  WHEN $by = 'drive' THEN abs(e.drive_active) WHEN $by = 'twera' THEN abs(e.twera)
  WHEN $by = 'coactivation' THEN e.n_both * 1.0 ELSE abs(e.z) END AS size
WHERE size >= 0 AND size >= $min
RETURN t.key AS key, t.text AS label, e.weight AS weight, e.z AS z, e.share AS share,
  e.n_both AS n_both, e.drive_active AS drive, e.twera AS twera
ORDER BY size DESC, key
LIMIT $limit
