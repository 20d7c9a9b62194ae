// The kept connections between every two layers of a set: how many, how strong. Reads them all.
// $set: text  the set, such as gpt2-small/tc-24k
// -> source_layer: int, target_layer: int, edges: int, positive: int, mean_size: double, largest_z: float
MATCH (a:Feature {set: $set})-[e:FEEDS]->(b:Feature)
RETURN a.layer AS source_layer, b.layer AS target_layer, count(e) AS edges,
  sum(CASE WHEN e.weight > 0 THEN 1 ELSE 0 END) AS positive, avg(abs(e.weight)) AS mean_size,
  max(abs(e.z)) AS largest_z
ORDER BY source_layer, target_layer
