"""One file per noun (and for chat, story and whoami): its verbs and its table's columns.

`tramontane.main` imports the file of the command that is called and no other.
"""
