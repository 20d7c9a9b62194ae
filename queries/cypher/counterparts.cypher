// The features of another set that read the same tokens as one feature, of the same model or of another that shares
// the vocabulary: two models joined through their tokens.
// $key: text        the feature
// $set: text        the other set, such as gpt2-small/tc-24k
// $limit: int = 20  how many to return
// -> key: text, layer: int, label: text, tokens: int, overlap: double
MATCH (a:Feature {key: $key})<-[x:ACTIVATES]-(t:Token)-[y:ACTIVATES]->(b:Feature)
WHERE b.set = $set AND a.set <> b.set
WITH b, count(t) AS tokens, sum(x.z * y.z) AS overlap
RETURN b.key AS key, b.layer AS layer, b.label AS label, tokens, overlap
ORDER BY overlap DESC, key
LIMIT $limit
