// The strongest connections between two layers of a set, by abs(z) if not said. Reads all of them.
// $set: text           the set, such as gpt2-small/tc-24k
// $source_layer: int   the layer that writes
// $target_layer: int   the layer that reads
// $by: text = "z"      what the order and $min go by: z, weight, share, drive, twera or coactivation
// $sign: int = 0       1 for positive weights only, -1 for negative only, 0 for both
// $min: float = 0      smallest size to return
// $live: int = 0       1 for what is active together on the observed text only
// $limit: int = 20     how many to return
// -> source: text, target: text, source_label: text, target_label: text, weight: float, z: float, share: float,
//    n_both: int, drive: float, twera: float
MATCH (a:Feature {set: $set, layer: $source_layer})-[e:FEEDS]->(b:Feature {layer: $target_layer})
// What is not asked for has size -1, as in the query named inputs.
WITH a, b, e, CASE WHEN ($sign <> 0 AND e.weight * $sign < 0) OR ($live = 1 AND coalesce(e.n_both, 0) = 0) THEN -1.0
  WHEN $by = 'weight' THEN abs(e.weight) WHEN $by = 'share' THEN e.share
  WHEN $by = 'drive' THEN abs(e.drive_active) WHEN $by = 'twera' THEN abs(e.twera)
  WHEN $by = 'coactivation' THEN e.n_both * 1.0 ELSE abs(e.z) END AS size
WHERE size >= 0 AND size >= $min
RETURN a.key AS source, b.key AS target, a.label AS source_label, b.label AS target_label, e.weight AS weight,
  e.z AS z, e.share AS share, e.n_both AS n_both, e.drive_active AS drive, e.twera AS twera
ORDER BY size DESC, source, target
LIMIT $limit
