// The strongest connections between two layers of a set, by abs(z). Reads all of them.
// $set: text           the set, such as gpt2-small/tc-24k
// $source_layer: int   the layer that writes
// $target_layer: int   the layer that reads
// $min: float = 0      smallest abs(z) to return
// $limit: int = 20     how many to return
// -> source: text, target: text, source_label: text, target_label: text, weight: float, z: float, share: float
MATCH (a:Feature {set: $set, layer: $source_layer})-[e:FEEDS]->(b:Feature {layer: $target_layer})
WHERE abs(e.z) >= $min
RETURN a.key AS source, b.key AS target, a.label AS source_label, b.label AS target_label, e.weight AS weight,
  e.z AS z, e.share AS share
ORDER BY abs(e.z) DESC, source, target
LIMIT $limit
