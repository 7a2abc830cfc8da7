"""What people read: the results of all methods put together, as tables, pages and pictures."""
