// The features that read two features; score is the weaker abs(z) of the two.
// $a: text           one feature
// $b: text           the other
// $limit: int = 20   how many to return
// -> key: text, layer: int, label: text, weight_a: float, weight_b: float, score: float
MATCH (a:Feature {key: $a})-[x:FEEDS]->(n:Feature)<-[y:FEEDS]-(b:Feature {key: $b})
WITH n, x, y, CASE WHEN abs(x.z) < abs(y.z) THEN abs(x.z) ELSE abs(y.z) END AS score
RETURN n.key AS key, n.layer AS layer, n.label AS label, x.weight AS weight_a, y.weight AS weight_b, score
ORDER BY score DESC, key
LIMIT $limit
