// The features of a set with the most kept connections to later features. Reads all of them.
// $set: text        the set, such as gpt2-small/tc-24k
// $by: text = "z"   what $min and the mean size go by: z, weight, share, drive, twera or coactivation
// $min: float = 0   smallest size of a connection that counts
// $live: int = 0    1 for connections between what is active together on the observed text only
// $limit: int = 20  how many to return
// -> key: text, layer: int, label: text, readers: int, mean_size: double
MATCH (f:Feature {set: $set})-[e:FEEDS]->(n:Feature)
// What does not count has size -1, as in the query named inputs.
WITH f, CASE WHEN $live = 1 AND coalesce(e.n_both, 0) = 0 THEN -1.0
  WHEN $by = 'weight' THEN abs(e.weight) WHEN $by = 'share' THEN e.share
  WHEN $by = 'drive' THEN abs(e.drive_active) WHEN $by = 'twera' THEN abs(e.twera)
  WHEN $by = 'coactivation' THEN e.n_both * 1.0 ELSE abs(e.z) END AS size
WHERE size >= 0 AND size >= $min
RETURN f.key AS key, f.layer AS layer, f.label AS label, count(size) AS readers, avg(size) AS mean_size
ORDER BY readers DESC, key
LIMIT $limit
