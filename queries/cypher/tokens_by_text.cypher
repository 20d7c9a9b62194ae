// The tokens of every vocabulary that say exactly this.
// $text: text  what the token decodes to, leading space included
// -> key: text, vocabulary: text, token_id: int, text: text
MATCH (t:Token {text: $text})
RETURN t.key AS key, t.vocabulary AS vocabulary, t.token_id AS token_id, t.text AS text
ORDER BY vocabulary, token_id
