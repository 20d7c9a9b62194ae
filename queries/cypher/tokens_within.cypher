// The tokens that a word holds, three characters or more: what it may be written with where no token says it whole.
// $text: text       the word in lower case, with a space before it
// $limit: int = 20  how many to return, the longest first
// -> key: text, vocabulary: text, text: text
MATCH (t:Token)
WHERE size(t.text) >= 3 AND $text CONTAINS toLower(t.text)
RETURN t.key AS key, t.vocabulary AS vocabulary, t.text AS text
ORDER BY size(t.text) DESC, key
LIMIT $limit
