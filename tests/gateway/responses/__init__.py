"""The Responses API: what may be asked, how it is translated, streamed, stored and run."""
