// The features that name one attention head among those that can move them most. Reads all features of the set.
// $set: text        the set, such as gpt2-small/tc-24k
// $head_key: text   the head's key, such as gpt2-small/L5H3
// $limit: int = 20  how many to return
// -> key: text, layer: int, label: text, head_keys: texts, head_norms: floats
MATCH (f:Feature {set: $set})
WHERE $head_key IN f.heads
RETURN f.key AS key, f.layer AS layer, f.label AS label, f.heads AS head_keys, f.head_norms AS head_norms
ORDER BY layer, key
LIMIT $limit
