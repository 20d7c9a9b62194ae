// The paths of two steps from one feature to another, by the product of their weights if not said.
// $source: text         where they begin
// $target: text         where they end
// $by: text = "weight"  what is multiplied and cut by $min: z, weight, share, drive, twera or coactivation
// $min: float = 0       smallest size of either step
// $live: int = 0        1 for steps between what is active together on the observed text only
// $limit: int = 20      how many to return
// -> key: text, layer: int, label: text, weight_in: float, weight_out: float, product: double
MATCH (a:Feature {key: $source})-[x:FEEDS]->(n:Feature)-[y:FEEDS]->(b:Feature {key: $target})
// What is not asked for has size -1, as in the query named inputs. The product has the sign of the weights.
WITH n, x, y, CASE WHEN $live = 1 AND coalesce(x.n_both, 0) = 0 THEN -1.0
  WHEN $by = 'weight' THEN abs(x.weight) WHEN $by = 'share' THEN x.share
  WHEN $by = 'drive' THEN abs(x.drive_active) WHEN $by = 'twera' THEN abs(x.twera)
  WHEN $by = 'coactivation' THEN x.n_both * 1.0 ELSE abs(x.z) END AS one,
  CASE WHEN $live = 1 AND coalesce(y.n_both, 0) = 0 THEN -1.0
  WHEN $by = 'weight' THEN abs(y.weight) WHEN $by = 'share' THEN y.share
  WHEN $by = 'drive' THEN abs(y.drive_active) WHEN $by = 'twera' THEN abs(y.twera)
  WHEN $by = 'coactivation' THEN y.n_both * 1.0 ELSE abs(y.z) END AS other
WHERE one >= 0 AND other >= 0 AND one >= $min AND other >= $min
RETURN n.key AS key, n.layer AS layer, n.label AS label, x.weight AS weight_in, y.weight AS weight_out,
  CASE WHEN 1.0 * x.weight * y.weight < 0 THEN -1.0 * one * other ELSE 1.0 * one * other END AS product
ORDER BY abs(1.0 * one * other) DESC, key
LIMIT $limit
