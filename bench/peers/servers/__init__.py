"""The peers' servers, written as in their documentation. The peer's own Python runs them; ours never imports them."""
