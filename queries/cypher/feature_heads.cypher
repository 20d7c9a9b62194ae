// The 8 attention heads that can move one feature most, and what the 16 learned positions that do so most add to it.
// $key: text  the feature
// -> head_keys: texts, head_norms: floats, place: ints, place_weights: floats
MATCH (f:Feature {key: $key})
RETURN f.heads AS head_keys, f.head_norms AS head_norms, f.positions AS place, f.position_weights AS place_weights
