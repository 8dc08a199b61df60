"""What people and CI systems read, written from data that the other rooms give."""
