// The tokens whose logit one feature writes to through attention heads, strongest first.
// $key: text        the feature
// $by: text = "z"   what the order and $min go by: z, weight or share
// $sign: int = 0    1 for positive weights only, -1 for negative only, 0 for both
// $min: float = 0   smallest size to return
// $head_layer: int = -1   only through a head of this layer; all if below 0
// $head_number: int = 0   and with this number
// $limit: int = 20  how many to return
// -> key: text, label: text, head_layer: int, head: int, weight: float, z: float, share: float
MATCH (:Feature {key: $key})-[e:PROMOTES_VIA]->(n:Token)
// What is not asked for has size -1: a condition on the nodes alone would let an engine read all of them first.
WITH n, e, CASE WHEN ($sign <> 0 AND e.weight * $sign < 0)
    OR ($head_layer >= 0 AND (e.layer <> $head_layer OR e.head <> $head_number)) THEN -1.0
  WHEN $by = 'weight' THEN abs(e.weight) WHEN $by = 'share' THEN e.share ELSE abs(e.z) END AS size
WHERE size >= 0 AND size >= $min
RETURN n.key AS key, n.text AS label, e.layer AS head_layer, e.head AS head, e.weight AS weight, e.z AS z,
  e.share AS share
ORDER BY size DESC, key, head_layer, head
LIMIT $limit
