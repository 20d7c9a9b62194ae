// Each attention head that a set has edges through: how many between features, and how strong. Reads all of them.
// $set: text  the set, such as gpt2-small/tc-24k
// -> layer: int, head: int, edges: int, positive: int, mean_size: double, largest_z: float
MATCH (a:Feature {set: $set})-[e:FEEDS_VIA]->(b:Feature)
RETURN e.layer AS layer, e.head AS head, count(e) AS edges, sum(CASE WHEN e.weight > 0 THEN 1 ELSE 0 END) AS positive,
  avg(abs(e.weight)) AS mean_size, max(abs(e.z)) AS largest_z
ORDER BY layer, head
