"""For those who write plugins: the scaffold, the bot without Discord, the hooks page, the doctor."""
