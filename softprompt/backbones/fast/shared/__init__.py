"""The shared-prefix engine of decoders: each prompt is computed once a pass, and nothing is padded.

In a causal model no position of a prompt depends on the rows after it. A pass of the reference computes the prompt
once a row all the same, and pads every row to the longest. Here all rows lie after one another in one sequence,

    [prompt 1 | prompt 2 | ... | row 1 | row 2 | ...],

every position has the position id that it would have in its own row, and the attention lets each row see its prompt
and itself. The layers are those of transformers: only the attention function between them is ours, registered with
transformers' own interface for such functions. Tokens with which all rows of a prompt begin stand with the prompt.
"""
