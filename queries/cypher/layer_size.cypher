// How many features a layer of one set has: the largest index is one less.
// $model: text  the model
// $set: text    the set, such as gpt2-small/tc-24k
// $layer: int   the layer
// -> key: text, features: int
MATCH (f:Feature)
WHERE f.model = $model AND f.layer = $layer AND f.idx >= 0 AND f.set = $set
RETURN f.key AS key, f.idx + 1 AS features
ORDER BY f.idx DESC, key
LIMIT 1
