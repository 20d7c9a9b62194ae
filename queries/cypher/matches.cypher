// What stands for one feature in other sets, as `atlas compare --keep` found it.
// $key: text         the feature
// $set: text = ""    only in this set; in all if empty
// $limit: int = 20   how many to return
// -> key: text, layer: int, label: text, score: float, null_p: float, method: text, run: text
MATCH (a:Feature {key: $key})-[e:MATCHES]-(b:Feature)
WHERE $set = '' OR b.set = $set
RETURN b.key AS key, b.layer AS layer, b.label AS label, e.score AS score, e.null_p AS null_p, e.method AS method,
  e.run AS run
ORDER BY score DESC, key
LIMIT $limit
