"""``bert-serving-doctor``: what would a start meet on this machine? Looks and tells; changes nothing.

Whatever the start itself checks is checked by the same code, so that both say the same. What is added here is what a
start would not notice, or notice late: memory, versions, open files, who holds a port.
"""
