"""A few sentences that are always there, for comparing two programs on the same text."""

SENTENCES = (
    "Era uma vez uma aldeia à beira do rio, onde ninguém sabia ler. Um dia chegou um homem com uma arca cheia de "
    "livros, e as crianças, que nunca tinham visto tantas letras juntas, não o deixaram ir embora. Ficou para o "
    "inverno, disse ele; mas na primavera já havia uma escola, e na escola uma janela de onde se via a água passar.",
    "Once upon a time there was a little girl named Lily who lived near the sea. She loved to play outside in the "
    "park, and every morning she ran down the hill to look for shells. One day she found a small green bottle. There "
    "was a letter in it, but the ink had run, and only one word could still be read: tomorrow.",
    "O artigo 5.º garante a todos o direito de resposta. Em 1988 foram 245 artigos; hoje, com as emendas, são mais de "
    "250. def area(raio): return 3.14159 * raio ** 2  # quanto mede um círculo",
)
"""Portuguese, English, and a mixture with numbers and code."""
