// The texts of some tokens, asked at once.
// $keys: texts  the tokens
// -> key: text, text: text
UNWIND $keys AS wanted
MATCH (t:Token {key: wanted})
RETURN t.key AS key, t.text AS text
