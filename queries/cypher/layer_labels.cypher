// The labels of the features of one layer.
// $model: text        the model
// $set: text          the set, such as gpt2-small/tc-24k
// $layer: int         the layer
// -> idx: int, label: text
MATCH (f:Feature)
WHERE f.model = $model AND f.layer = $layer AND f.idx >= 0 AND f.set = $set
RETURN f.idx AS idx, f.label AS label
ORDER BY idx
