// The tokens that two features both read, of one model or of two that share a vocabulary.
// $a: text          one feature
// $b: text          the other
// $limit: int = 20  how many to return
// -> key: text, label: text, weight_a: float, weight_b: float, z_a: float, z_b: float, score: float
MATCH (a:Feature {key: $a})<-[x:ACTIVATES]-(t:Token)-[y:ACTIVATES]->(b:Feature {key: $b})
WITH t, x, y, CASE WHEN abs(x.z) < abs(y.z) THEN abs(x.z) ELSE abs(y.z) END AS score
RETURN t.key AS key, t.text AS label, x.weight AS weight_a, y.weight AS weight_b, x.z AS z_a, y.z AS z_b, score
ORDER BY score DESC, key
LIMIT $limit
