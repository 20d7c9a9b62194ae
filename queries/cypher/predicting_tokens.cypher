// The tokens that move one token's logit past everything else, strongest first.
// $key: text        the token
// $set: text = ""   the set whose build found it, such as gpt2-small/tc-24k; all if empty
// $by: text = "z"   what the order and $min go by: z, weight or share
// $sign: int = 0    1 for positive weights only, -1 for negative only, 0 for both
// $min: float = 0   smallest size to return
// $limit: int = 20  how many to return
// -> key: text, label: text, weight: float, z: float, share: float
MATCH (:Token {key: $key})<-[e:PREDICTS]-(n:Token)
MATCH (s:TranscoderSet)
WHERE s.run = e.run AND ($set = '' OR s.key = $set)
  AND ($sign = 0 OR e.weight * $sign > 0)
WITH n, e, CASE WHEN $by = 'weight' THEN abs(e.weight) WHEN $by = 'share' THEN e.share ELSE abs(e.z) END AS size
WHERE size >= $min
RETURN n.key AS key, n.text AS label, e.weight AS weight, e.z AS z, e.share AS share
ORDER BY size DESC, key
LIMIT $limit
