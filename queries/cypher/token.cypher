// One token by its key.
// $key: text  the token
// -> key: text, vocabulary: text, token_id: int, text: text
MATCH (t:Token {key: $key})
RETURN t.key AS key, t.vocabulary AS vocabulary, t.token_id AS token_id, t.text AS text
