"""The client's side: connections, request heads and replies, as RFC 9110 and 9112 want them."""
