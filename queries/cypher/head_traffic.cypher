// What passes from feature to feature through one attention head, strongest first. Reads all of the set's such edges.
// $set: text        the set, such as gpt2-small/tc-24k
// $layer: int       the head's layer
// $head: int        its number in that layer, from 0
// $by: text = "z"   what the order and $min go by: z, weight, share, drive, twera or coactivation
// $min: float = 0   smallest size to return
// $live: int = 0    1 for what is attended to on the observed text only
// $limit: int = 20  how many to return
// -> source: text, target: text, source_label: text, target_label: text, weight: float, z: float, share: float,
//    attended: float, drive: float, twera: float
MATCH (a:Feature {set: $set})-[e:FEEDS_VIA]->(b:Feature)
WHERE e.layer = $layer AND e.head = $head
// What is not asked for has size -1, as in the query named inputs.
WITH a, b, e, CASE WHEN $live = 1 AND coalesce(e.attended, 0.0) <= 0 THEN -1.0
  WHEN $by = 'weight' THEN abs(e.weight) WHEN $by = 'share' THEN e.share
  WHEN $by = 'drive' THEN abs(e.drive_active) WHEN $by = 'twera' THEN abs(e.twera)
  WHEN $by = 'coactivation' THEN e.attended ELSE abs(e.z) END AS size
WHERE size >= 0 AND size >= $min
RETURN a.key AS source, b.key AS target, a.label AS source_label, b.label AS target_label, e.weight AS weight,
  e.z AS z, e.share AS share, e.attended AS attended, e.drive_active AS drive, e.twera AS twera
ORDER BY size DESC, source, target
LIMIT $limit
