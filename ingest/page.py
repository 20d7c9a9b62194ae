"""A page of text to run a model on: English with numbers, code and dialogue, written for this purpose."""

TEXT = """
The river had been rising since Tuesday, and by the time the mayor called a meeting nobody in the lower town
needed to be told. "We moved the piano upstairs," said Anna, "and then the cat, who did not care for it." In
1903 the water had stood 1.4 metres deep in the market square; this year's forecast, published at 6:15 in the
morning, spoke of 1.1, give or take.

What causes such floods? Snow melts in the mountains, rain falls on ground that is frozen or already full, and a
valley that once had meadows now has car parks. Engineers in Vienna, Prague and Kyoto have all tried the same
remedy: give the river room, and it will be quieter for it. It costs money. It also costs people their gardens,
which is harder to pay for.

def level(readings):
    # the median is not moved by one broken sensor
    ordered = sorted(r for r in readings if r is not None)
    return ordered[len(ordered) // 2] if ordered else 0.0

Later that night the power failed. Three boys rowed down Church Street with a lantern, singing, and were fined
twenty crowns each. The newspaper called it a scandal; their grandmother, asked for a comment, asked whether
they had sung well. By Friday the sun was out, the mud smelled of diesel and roses, and the bakery sold bread
through a window on the first floor. Je ne regrette rien, the baker said. He had said the same in the war, and
after his divorce, and nobody laughed.

Chemistry students may remember that water expands by about nine per cent as it freezes, that it dissolves more
things than any other common liquid, and that its heat capacity, 4.18 joules per gram and kelvin, keeps the
coast mild in winter. They may not remember who told them, or why they believed it. Dear Sir or Madam, please
find enclosed my application for the position of assistant librarian; I can read four languages, lift forty
pounds and keep a secret.
""".strip()
