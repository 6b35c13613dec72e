"""What travels over HTTP: schemas, the error table, the two dialects and the client."""
