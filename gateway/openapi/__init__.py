"""The description of the HTTP interface: one table of operations, from which document and page are made.

`operations` holds the table (what each route takes and answers, as the same types that handlers encode), `document`
turns it into OpenAPI 3.1, `page` into a page that needs no script and no network, `routes` serves both.
"""
