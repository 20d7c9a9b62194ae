// What passes from feature to feature through one attention head, strongest first. Reads all of the set's such edges.
// $set: text        the set, such as gpt2-small/tc-24k
// $layer: int       the head's layer
// $head: int        its number in that layer, from 0
// $by: text = "z"   what the order and $min go by: z, weight or share
// $min: float = 0   smallest size to return
// $limit: int = 20  how many to return
// -> source: text, target: text, source_label: text, target_label: text, weight: float, z: float, share: float
MATCH (a:Feature {set: $set})-[e:FEEDS_VIA]->(b:Feature)
WHERE e.layer = $layer AND e.head = $head
WITH a, b, e, CASE WHEN $by = 'weight' THEN abs(e.weight) WHEN $by = 'share' THEN e.share ELSE abs(e.z) END AS size
WHERE size >= $min
RETURN a.key AS source, b.key AS target, a.label AS source_label, b.label AS target_label, e.weight AS weight,
  e.z AS z, e.share AS share
ORDER BY size DESC, source, target
LIMIT $limit
