// The paths of two steps from one feature to another, by the product of their weights.
// $source: text     where they begin
// $target: text     where they end
// $limit: int = 20  how many to return
// -> key: text, layer: int, label: text, weight_in: float, weight_out: float, product: double
MATCH (a:Feature {key: $source})-[x:FEEDS]->(n:Feature)-[y:FEEDS]->(b:Feature {key: $target})
RETURN n.key AS key, n.layer AS layer, n.label AS label, x.weight AS weight_in, y.weight AS weight_out,
  1.0 * x.weight * y.weight AS product
ORDER BY abs(1.0 * x.weight * y.weight) DESC, key
LIMIT $limit
