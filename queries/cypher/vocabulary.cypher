// The tokens of one vocabulary: their ids and what they decode to, alone.
// $vocabulary: text  its name in token keys
// -> token: int, text: text
MATCH (t:Token)
WHERE t.vocabulary = $vocabulary
RETURN t.token_id AS token, t.text AS text
