// The features that one token excites or holds down through attention heads, strongest first.
// $key: text        the token
// $set: text = ""   only features of this set, such as gpt2-small/tc-24k; all if empty
// $by: text = "z"   what the order and $min go by: z, weight, share, drive, twera or coactivation
// $sign: int = 0    1 for positive weights only, -1 for negative only, 0 for both
// $min: float = 0   smallest size to return
// $first: int = 0      only features of this layer or later
// $last: int = 999999  only features of this layer or earlier
// $head_layer: int = -1   only through a head of this layer; all if below 0
// $head_number: int = 0   and with this number
// $live: int = 0   1 for what is attended to on the observed text only
// $limit: int = 20  how many to return
// -> key: text, layer: int, label: text, head_layer: int, head: int, weight: float, z: float, share: float,
//    attended: float, drive: float, twera: float
MATCH (:Token {key: $key})-[e:ACTIVATES_VIA]->(n:Feature)
// What is not asked for has size -1: a condition on the nodes alone would let an engine read all of them first.
WITH n, e, CASE WHEN ($set <> '' AND n.set <> $set) OR n.layer < $first OR n.layer > $last
    OR ($sign <> 0 AND e.weight * $sign < 0)
    OR ($head_layer >= 0 AND (e.layer <> $head_layer OR e.head <> $head_number))
    OR ($live = 1 AND coalesce(e.attended, 0.0) <= 0) THEN -1.0
  WHEN $by = 'weight' THEN abs(e.weight) WHEN $by = 'share' THEN e.share
  WHEN $by = 'drive' THEN abs(e.drive_active) WHEN $by = 'twera' THEN abs(e.twera)
  WHEN $by = 'coactivation' THEN e.attended ELSE abs(e.z) END AS size
WHERE size >= 0 AND size >= $min
RETURN n.key AS key, n.layer AS layer, n.label AS label, e.layer AS head_layer, e.head AS head, e.weight AS weight, e.z AS z,
  e.share AS share, e.attended AS attended, e.drive_active AS drive, e.twera AS twera
ORDER BY size DESC, key, head_layer, head
LIMIT $limit
