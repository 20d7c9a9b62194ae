// The features of a set with the most kept connections to later features. Reads all of them.
// $set: text        the set, such as gpt2-small/tc-24k
// $limit: int = 20  how many to return
// -> key: text, layer: int, label: text, readers: int, mean_size: double
MATCH (f:Feature {set: $set})-[e:FEEDS]->(n:Feature)
RETURN f.key AS key, f.layer AS layer, f.label AS label, count(e) AS readers, avg(abs(e.z)) AS mean_size
ORDER BY readers DESC, key
LIMIT $limit
