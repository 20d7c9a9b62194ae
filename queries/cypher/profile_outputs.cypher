// What some features of one layer give to the logits: every connection that is kept.
// $model: text         the model
// $set: text           the set, such as gpt2-small/tc-24k
// $layer: int          the layer
// $first: int = 0      the first index of the features
// $last: int = 999999  the last
// -> idx: int, token: int, z: float
MATCH (f:Feature)-[e:PROMOTES]->(t:Token)
WHERE f.model = $model AND f.layer = $layer AND f.idx >= $first AND f.idx <= $last AND f.set = $set
RETURN f.idx AS idx, t.token_id AS token, e.z AS z
