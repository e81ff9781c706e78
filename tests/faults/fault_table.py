"""The fault table: what can go wrong with voice and speech, what Roost does about it and what people notice.

`docs/faults.md` is written from here (`make docs`); tests claim rows with ``@pytest.mark.fault(number)``.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One fault.

    Attributes:
        number: Of the row; tests name it.
        bound_s: Seconds from the fault to the state that Roost promises; 0: nothing may be delayed by it.
        fault: What goes wrong.
        does: What Roost does about it.
        seen: What people in the server notice.
        not_injected: Why no test can bring it about; empty for every row that tests do.
    """

    number: int
    bound_s: float
    fault: str
    does: str
    seen: str
    not_injected: str = ""


GROUPS: dict[str, range] = {
    "Joining and leaving": range(1, 15),
    "The voice handshake": range(15, 21),
    "The connection breaks": range(21, 38),
    "Servers, channels and moderators": range(38, 51),
    "The main gateway and the machine": range(51, 60),
    "End-to-end encryption": range(60, 67),
    "Unload, stop and crash": range(67, 80),
    "Speech-to-text": range(80, 87),
    "Hostile input": range(87, 88),
    "Failures that stay where they belong": range(88, 100),
    "Plugins that harm": range(100, 110),
    "What members and their clients send": range(110, 120),
    "Poison, captions and words": range(120, 132),
    "Limits and queues": range(132, 140),
    "The main gateway, commands and REST": range(140, 150),
    "Two of anything, start and data": range(150, 175),
    "Harm that is repeated or spread": range(175, 180),
    "Consent": range(190, 200),
    "Members who withdraw": range(200, 205),
    "The notice": range(205, 215),
    "Who reads along": range(215, 220),
    "Deleted is deleted": range(220, 225),
    "Guards that fail closed": range(225, 230),
    "What was told counts": range(230, 240),
    "Words that plugins and logs get": range(240, 250),
    "What is shared with others": range(250, 260),
    "What members read of being heard": range(260, 270),
    "Answers and captions in time": range(270, 280),
    "Readers and words that change in time": range(280, 290),
    "Changes while captions are on their way": range(290, 300),
    "Settings that change in mid-call": range(300, 305),
    "Words that outlive the process": range(305, 308),
    "Hooks that outlast their deadline": range(308, 312),
    "The store and its copies": range(315, 320),
    "What members and admins read": range(320, 325),
    "Voices and words on other ways": range(330, 335),
    "A database that fails in part": range(335, 340),
    "Many servers, and the driver songbird": range(340, 345),
}

GONE = "The bot leaves and says why."
LEFT = "The last words are posted, and the bot leaves."
NOTHING = "Nothing."
GAP = "A short gap in what the bot hears."
NOT_JOINED = "The reply to the command says why; the bot is not in voice."

ROWS: tuple[Row, ...] = (
    Row(1, 7, "the channel is full, or the bot may not connect: Discord answers nothing",
        "asks the cache before it tries; else waits 5 s, leaves, has the leave confirmed", NOT_JOINED),
    Row(2, 7, "only one of the two events of a join arrives", "as row 1", NOT_JOINED),
    Row(3, 0, "the intent GUILD_VOICE_STATES is missing", "the plugin is not loaded and says which intent to add; a bot that requires voice does not start",
        "No voice commands; the operator reads why at the start."),
    Row(4, 2, "the events of a join arrive after the bot has given up", "an event that nobody waits for is answered with a leave",
        "The bot appears in the channel and is gone again."),
    Row(5, 0, "the events of a join arrive in the instant it is asked for, in either order", "listens before it asks", NOTHING),
    Row(6, 10, "the first voice server is announced without an address", "waits for the next announcement, else leaves",
        "The join takes a moment longer, or is refused with a reason."),
    Row(7, 0, "an old voice state (out of voice) arrives during a join", "is recognised by its session and count, and ignored", NOTHING),
    Row(8, 2, "whoever waits for a join is cancelled, at any point", "leaves, confirmed, and hands the cancellation on",
        "The bot is not in voice."),
    Row(9, 2, "name resolution, TLS or the encryption mode fails after Discord let the bot in", "leaves, confirmed", NOT_JOINED),
    Row(10, 0, "up to 50 joins to one channel at once", "one session; everybody gets it", "One bot, one message per command."),
    Row(11, 5, "joins to different channels at once", "the last one wins; there is one session at any time", "The others read where the bot went."),
    Row(12, 7, "a join while the bot is leaving", "waits for the leave to be confirmed, then joins", "The bot leaves and comes."),
    Row(13, 2, "a leave while the bot is joining", "gives the join up and leaves", "The bot is not in voice; the join's reply says why."),
    Row(14, 5, "joins and leaves, 50 a second", "at most one voice request a second and server, 100 a minute and shard; the last wish wins",
        "The bot ends where the last command wanted it."),
    Row(15, 9, "the voice server accepts the connection and then says nothing, TLS included", "three tries of 3 s at most, then leaves", NOT_JOINED),
    Row(16, 3, "one of the messages of the handshake never comes", "each has a deadline of its own; then leaves", NOT_JOINED),
    Row(17, 3, "the datagrams of address discovery are lost", "sent again every 0.25 s, up to 12 times", NOTHING),
    Row(18, 0, "forged or damaged answers to address discovery", "only the true one counts: source, length, type and stream are checked", NOTHING),
    Row(19, 1, "the voice server offers no encryption mode in common, or a key of a wrong length", "ends, and does not try again", NOT_JOINED),
    Row(20, 5, "a moderator moves the bot while it joins", "goes along, or leaves, as `voice.follow_moves` says", "The bot is where it was moved to."),
    Row(21, 8, "the connection is reset, or closed with 1001", "resumes in 3 s without losing its place, else joins anew in 8 s", GAP),
    Row(22, 13, "the connection is dead though nothing says so", "two heartbeats without an answer, then resumes", GAP),
    Row(23, 10, "heartbeats are answered with a wrong number", "counts as no answer", GAP),
    Row(24, 8, "closed with 1000 though nobody asked", "treated as a broken connection", GAP),
    Row(25, 10, "closed with 4001, 4002, 4003, 4005, 4012, 4016 or 4020: a mistake of ours", "one fresh try, then gives up", GONE),
    Row(26, 8, "closed with 4004: the token of this join is refused", "one fresh join", GAP),
    Row(27, 8, "closed with 4006: the voice session is no longer valid", "fresh joins, three in 5 minutes at most", GAP),
    Row(28, 8, "closed with 4009: timed out", "resumes once, else joins anew", GAP),
    Row(29, 10, "closed with 4011: no such server", "two fresh joins", GAP),
    Row(30, 8, "closed with 4013 or 4015: the server went or crashed", "resumes, else joins anew", GAP),
    Row(31, 5, "closed with 4014 or 4022: kicked, moved or the channel is gone", "waits 5 s for a new server, else ends", GONE),
    Row(32, 1, "closed with 4017: encryption required", "ends, does not try again, says so", GONE),
    Row(33, 1, "closed with 4021: too many connections", "ends; no new try for 60 s", "The bot leaves and says when to try again."),
    Row(34, 10, "closed with a code nobody knows", "one fresh join, then gives up", GONE),
    Row(35, 11, "a resume is refused, or not answered", "joins anew", GAP),
    Row(36, 0, "sequence numbers repeat, or wrap from 65535 to 0", "acknowledges the last one seen", NOTHING),
    Row(37, 60, "every connection is accepted and then closed with 4006, for ever", "gives up after its tries, says so once", GONE),
    Row(38, 30, "the voice server is withdrawn in mid-call", "closes the connection in 1 s, waits 30 s for another, else leaves", GAP),
    Row(39, 5, "another voice server is announced", "the old connection is closed first (1 s), then the new one opened", GAP),
    Row(40, 5, "the same voice server with another token", "a new connection; the old one is not used again", GAP),
    Row(41, 5, "a moderator moves the bot", "goes along with new keys, or leaves, as `voice.follow_moves` says", "The bot is where it was moved to, and says so."),
    Row(42, 1, "a moderator disconnects the bot", "ends and stays away", "The bot is gone; a line says that it was disconnected."),
    Row(43, 5, "the events of a kick or a move come in any order", "the same end for every order", "As rows 41 and 42."),
    Row(44, 5, "disconnected while alone: another close code", "waits 5 s for a new server, then asks Discord and ends", "As row 42."),
    Row(45, 7, "the voice state of a kick still shows the old channel", "the voice server is believed, and Discord asked", "As row 42."),
    Row(46, 5, "the channel is deleted", "ends", GONE),
    Row(47, 5, "the bot loses the right to connect", "looks before it joins anew; ends", GONE),
    Row(48, 1, "the bot is removed from the server", "ends without a word to Discord", "The bot is gone."),
    Row(49, 60, "Discord reports the server as unavailable", "a voice connection that lives is kept", NOTHING),
    Row(50, 0, "the bot is muted or deafened", "no change of place, no change of session", NOTHING),
    Row(51, 0, "the main gateway connection drops and resumes", "voice is not touched; requests wait", NOTHING),
    Row(52, 10, "the main gateway session is lost", "local connections are dropped in 2 s, then joined anew", GAP),
    Row(53, 10, "a leave while the main gateway is down", "the wish is kept and sent until it is confirmed", "The bot leaves once Discord hears it again."),
    Row(54, 10, "a voice request is lost with the main gateway session", "sent again; confirmed by a question to Discord", NOTHING),
    Row(55, 15, "the process stalls for 5 or 15 s", "recovers, with one session", GAP),
    Row(56, 10, "the network is down for 1 or 10 minutes", "no descriptor is left over; recovers 10 s after", "A gap as long as the outage."),
    Row(57, 20, "datagrams no longer arrive (a router forgot us)", "echoes or silence beside speakers tell; discovers and connects anew", GAP),
    Row(58, 0, "the operating system refuses datagrams", "counted; the session lives", NOTHING),
    Row(59, 0, "datagrams lost (30 %), reordered, repeated, late", "put in order within bounds; what is missing is counted", "Missing syllables."),
    Row(60, 0, "alone in the channel: no encryption group yet", "waits, which is no error", NOTHING),
    Row(61, 5, "a damaged commit or welcome of the encryption group", "reports it once and enters anew with a new key package", GAP),
    Row(62, 60, "the encryption group fails again and again", "three times in 60 s, then a new connection, then the breaker", GONE),
    Row(63, 10, "a key change is executed late, or one that nobody announced", "old keys are kept 10 s; what nobody announced is ignored", NOTHING),
    Row(64, 6, "36 frames in a row cannot be decrypted", "enters the group anew, once", GAP),
    Row(65, 1, "keys change as members come and go", "every packet is opened with the keys of the moment", NOTHING),
    Row(66, 1, "the server takes the channel down to no encryption", "refused; ends with a notice (a stage channel is meant to be open)", GONE),
    Row(67, 3, "the voice plugin is unloaded and loaded, 100 times", "nothing is left; the plugin can be collected", "The bot leaves at each unload."),
    Row(68, 3, "SIGTERM or SIGINT in any state", "voice is left first, then the gateway closed", LEFT),
    Row(69, 8, "another plugin hangs while stopping", "Roost's own deadline passes it by", "The bot is offline within 8 s."),
    Row(70, 2, "a second signal while stopping", "leaves voice at once and closes the gateway", "The bot is offline within 2 s."),
    Row(71, 3, "the end of one session raises or hangs", "the others end all the same, each with a deadline", LEFT),
    Row(72, 8, "a thread keeps the process from ending", "the process ends itself", "The bot is offline within 8 s."),
    Row(73, 10, "SIGKILL in any state, in up to 50 servers of a shard (25 if Discord ignores a plain leave for a ghost)",
        "the next start finds the ghosts and ends them", "The bot leaves the channels when it is back."),
    Row(74, 10, "SIGKILL while the journal is written", "the journal is replaced whole; a torn one is ignored", "As row 73."),
    Row(75, 0, "the bot crashes in a loop", "starts 20 times an hour at most (`start.max_identify_per_hour`), and less often when Discord allows few", "The bot comes back later and its log says when; its token stays valid."),
    Row(76, 0, "foreign software and the bot share one token (`voice.exclusive = false`)", "neither ends what the other holds", NOTHING),
    Row(77, 15, "the process is stopped for a minute and goes on", "recovers or ends, never doubles", GAP),
    Row(78, 0, "a child process could inherit sockets", "none does", NOTHING),
    Row(79, 7, "no file descriptors left", "the join fails and leaves", NOT_JOINED),
    Row(80, 5, "a session ends while its speech is transcribed", "the job ends or is cancelled; nothing is held", "The last words appear, or not at all."),
    Row(81, 10, "the speech process crashes, or its memory is too small", "a new one, after a pause; voice goes on; the utterance is tried again", "Captions come late."),
    Row(82, 30, "the speech process hangs", "killed and replaced; what was said meanwhile is kept", "Captions come late."),
    Row(83, 2, "the bot is killed with a model loaded", "the speech process ends by itself", "The bot is offline."),
    Row(84, 5, "a model is loaded and released 20 times", "each time in a process of its own, which ends", NOTHING),
    Row(85, 0, "25 people speak, or transcription is slow", "queues have bounds; what is dropped is counted and told once", "Some lines are missing and a line says so."),
    Row(86, 60, "10,000 streams come and go", "decoders that idle are freed", NOTHING),
    Row(87, 0, "malformed packets and messages of every kind", "dropped and counted; the session lives", NOTHING),
    Row(88, 5, "members run commands while the process stands still, and Discord no longer takes the answers (10062)",
        "logs it as nobody's failure; the plugin is not stopped, and everything it watches over is watched on",
        "These commands are not answered; the next ones are."),
    Row(89, 5, "Discord refuses what a plugin tries (403, 404), or fails at it (429, 5xx, no connection)",
        "logs it, counts nothing against the plugin", "The reply says which of the two it was."),
    Row(90, 5, "the database is locked by somebody else", "as row 89", "The reply says so; it works again at once after."),
    Row(91, 1, "a member runs into a command's own check, cooldown or limit again and again",
        "answers each time and counts nothing; a check that is broken counts in that server",
        "The reply says what is missing, or how many seconds are left."),
    Row(92, 5, "what one server sends makes a plugin raise, five times in a minute",
        "pauses the plugin in that server alone and calls it again after 5 minutes; the next failure pauses it for twice as long",
        "The reply says that it is paused and until when; other servers notice nothing."),
    Row(93, 5, "one owner of many servers makes a plugin raise in all of them",
        "counts owners, not servers: it is paused there; the whole bot is stopped for guildless failures, or for most active owners",
        "Nothing in other servers."),
    Row(94, 2, "an error carries the token of an interaction or a webhook",
        "keeps it out of the log and of `/plugins why`, which shows details to the bot's owners alone",
        "Admins read what kind of failure it was, and its id."),
    Row(95, 2, "a plugin takes over an error (`handle_error` answers True)",
        "counts nothing and answers nothing of its own; a plugin is asked about others' errors only if its `Meta.errors_of` names them", "What that plugin says."),
    Row(96, 2, "a plugin that decides who may do something is paused after failures",
        "refuses in its place, except what ends something", "The reply names the plugin; an admin can switch it off."),
    Row(97, 10, "voice fails too often in a server, or in the whole bot, while it is in a channel",
        "leaves in order; `/voice leave`, moves, being alone and ghosts are seen to all the same, and its end takes up what Discord shows",
        GONE),
    Row(98, 10, "speech-to-text fails too often in a server while it transcribes",
        "posts what was said and ends the transcription; voice stays", "A line in the channel says so."),
    Row(99, 2, "Discord answers what a plugin asks with something that cannot be read", "as row 89",
        "The reply says that Discord does not answer as it should."),
    Row(100, 5, "the text of a plugin's error raises, never ends, is no text or a megabyte", "fails the plugin alone; the log names the class of the error",
        "The plugin's own commands fail; everything else works."),
    Row(101, 5, "a hook answers something of the wrong kind: `Deny(None)`, a driver, engine or link that is none", "fails its plugin, in one line that names it; a check that answers wrongly refuses",
        "A command or join is refused and says whose check failed; everything else works."),
    Row(102, 20, "a plugin has so many slash commands that Discord does not take those of all plugins", "required plugins keep their room and their names; the plugin with the most commands is refused",
        "The commands of that plugin are missing."),
    Row(103, 3, "a plugin takes over or blocks SIGTERM, SIGINT or SIGHUP, in its import, its load or later", "the bot's own handlers stay; the log names the plugin",
        GONE),
    Row(104, 3, "a plugin changes what belongs to the process: folder, umask, warnings, logging, exception hooks", "voice is joined and left all the same",
        NOTHING),
    Row(105, 5, "a plugin's name makes the table or index of another: `foo_user` beside `foo`, `stt_user`, long names", "each has a table and indexes that no other name makes",
        NOTHING),
    Row(106, 20, "the metadata of an installed distribution is damaged: a requirement, an entry point, its text", "fails its plugin alone, in one line that names the distribution and the remedy",
        NOTHING),
    Row(107, 15, "a plugin cancels every task, in its load too, stops the event loop, or raises SystemExit in a callback or task of its own", "the bot goes on; one line says what happened and, where that is known, which plugin",
        "After all tasks were cancelled, voice ends and commands answer again within seconds; else nothing."),
    Row(108, 3, "a plugin closes hikari's bot", "stops in order, voice first; the log names the plugin", GONE),
    Row(109, 3, "signals that end a process by default: SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO; SIGQUIT, SIGXCPU, SIGPWR", "ignores the first group, with one line for each; stops in order at the second",
        GONE),
    Row(110, 0, "a member's packets are empty or not valid Opus", "dropped and counted in the receiver, before anything hears them", NOTHING),
    Row(111, 0, "a member's packets last 2.5 to 120 ms", "each is taken for as long as it says", NOTHING),
    Row(112, 1, "the numbers of a member's packets jump, back or forward", "goes on after three packets at most, and counts those as lost", GAP),
    Row(113, 0, "one of a member's two clients leaves", "hears the other one on", NOTHING),
    Row(114, 0, "a gateway asks for a heartbeat every millisecond, or for one that makes no sense",
        "beats once a second at most; an interval that is none counts as no hello", NOTHING),
    Row(115, 2, "the voice server names a private, local or multicast address for media", "sends nothing there; ends and does not try again", NOT_JOINED),
    Row(116, 0, "a voice state comes without its member, or a server with entries that cannot be read",
        "somebody unknown counts as a human; what cannot be read is left out, logged, and costs nothing else", NOTHING),
    Row(117, 1, "members come and go by the thousand", "what the encryption keeps of them is dropped by entering its group anew, when nobody speaks", NOTHING),
    Row(118, 3, "Discord does not take the answer to `/voice leave`, `/transcribe stop` or `/transcribe pause`",
        "carries it out all the same", "The command seems to have failed, but the bot has left or stopped."),
    Row(119, 5, "Discord does not take the notice, though nothing forbids it", "hears nobody, and asks for no permission that it has",
        "The reply says that Discord did not take the notice, and to try again."),
    Row(120, 5, "a message to the speech process breaks the rules, its audio makes the decoder raise, or the engine answers nonsense", "that message, packet or utterance is dropped and counted; the process lives", "At most that speaker's words are missing."),
    Row(121, 20, "the speech process dies of an utterance or of a packet", "what it was at is tried once more, alone, and then given up; the rest of what was kept becomes text", "That utterance is missing, others come late."),
    Row(122, 30, "the speech process dies of one speaker's audio again and again", "after the third death that speaker is not transcribed any more; one server uses up one of the five deaths after which the engine is given up", "A line says who is not transcribed; others go on."),
    Row(123, 3, "eight members export a transcript of 40,000 lines at once", "one request a member, one a server and two in the bot at a time; rendered line by line in a thread, compressed or in parts when Discord takes no such file", "The reply says how the file comes; other commands are answered as ever."),
    Row(124, 30, "Discord answers a request for captions with JSON of another shape", "the caption loop goes on; what was probably posted is not posted again", "A line says how many captions are missing."),
    Row(125, 60, "captions meet 429, a server error or no network", "they are kept, up to 256 lines, and posted together later", "Captions come late."),
    Row(126, 15, "the text channel is deleted, or the bot may not write there any more", "captions are kept; `/transcribe start` elsewhere moves them", "The voice channel's own chat says so."),
    Row(127, 30, "a stored transcript or one of its lines is damaged, or of a later version", "left out and named in the log; the plugin loads, the rest can be read, deletion goes on", NOTHING),
    Row(130, 10, "a member leaves the server before what they said has become text", "the caption has the name that they had when they were heard", NOTHING),
    Row(132, 3, "one member asks for joins and leaves in 60 servers at once",
        "voice requests go out in fair shares by member, leaves first; part of each minute is kept for leaves and for members who ask for little",
        "The others notice nothing."),
    Row(133, 1, "a member or a server asks for more joins in a minute than `voice.joins_per_user` or `voice.joins_per_guild` allows",
        "refused at once, with the seconds left; a leave is never refused", "The member alone reads how long to wait."),
    Row(134, 3, "50 members of one server type `/voice join` at once",
        "one join; each reply has a rate limit of its own, as at Discord, and waits for no other; a leave is taken first", "Every member has a final reply within 3 s."),
    Row(135, 70, "SIGKILL in 50 servers of a shard, and Discord ignores a plain leave for a ghost",
        "each ghost then takes three voice requests, of which a shard has 100 a minute: 25 ghosts at once, 25 more with every further minute",
        "The bot leaves half of the channels within 10 s and the others a minute later."),
    Row(136, 20, "people of one server speak without end, faster than speech is transcribed",
        "servers take turns; what is too much is taken from the server with the most", "The captions of the other servers come a few seconds late."),
    Row(137, 1, "Discord answers what the bot writes in one server late", "requests of different channels and servers wait for their own answers alone",
        "The other servers notice nothing."),
    Row(140, 10, "the main gateway sends a message that nobody can read", "that shard reconnects and resumes; three times with the same message, a new session",
        NOTHING),
    Row(141, 10, "the main gateway closes with a code that is not final, or with a damaged HELLO, READY or server",
        "that shard connects again; what is damaged is dropped and logged", NOTHING),
    Row(142, 8, "a stop while Discord cannot be reached", "says in the log what was not done, ends with status 3; the next start reaps",
        "The bot stays in the voice channel until Discord notices, or the next start."),
    Row(143, 0, "Discord ends every session as soon as it began", "each next session waits longer, is logged, and leaves some of the day's sessions over",
        "The bot is offline for a while."),
    Row(144, 90, "fourteen shards, and Discord lets one begin at a time", "each waits for its turn; the limit of time is each shard's own",
        "The bot takes a minute to appear in every server."),
    Row(145, 10, "Discord limits the commands of one server for 45 s", "the bot is ready at once; every other server has its commands", "In that server alone, new commands come late."),
    Row(146, 5, "600 servers, in none of which a command changed", "asks and tells Discord nothing of them at the start", NOTHING),
    Row(147, 10, "the application has commands that this bot did not register", "reports them; removes them where `commands.remove_foreign` is on",
        "Those commands stay."),
    Row(148, 20, "REST answers with JSON of another shape", "counts as no answer; what asked goes on, and asks again", NOTHING),
    Row(149, 2, "a command arrives while its plugin is being loaded anew", "answers the member with a sentence", "The reply says to try again in a moment."),
    Row(150, 15, "a second process is started on a data folder or a database that a process of the bot holds",
        "refuses the second process in one line with the first one's id, machine and start; the first one is not touched", NOTHING),
    Row(151, 15, "a bot is started on a data folder or a database of another bot", "refuses it in one line that names the owner, before a plugin is loaded", NOTHING),
    Row(152, 20, "the process that held the data was killed, or is of an older version",
        "its lock ends with it, however it ends, and the next start goes on; a folder without an owner is adopted", NOTHING),
    Row(153, 10, "the database, the data folder or its lock vanishes or is replaced under the running bot",
        "refuses at once to write what could not be found again, leaves voice, ends with a non-zero status and says why", GONE),
    Row(154, 20, "the data folder is another user's, closed, read-only, full or open to others, or something lies in a file's place",
        "one line with the path and the remedy, and a non-zero status; modes and owners are left alone", "The bot is offline; the operator reads why."),
    Row(155, 20, "the database file is damaged", "one line with the file and the remedy; nothing is written over", "As row 154."),
    Row(156, 20, "the configuration has a byte order mark, or `discord.rest_url` does not lead to Discord", "one line with the file or key and the remedy", "As row 154."),
    Row(157, 20, "Discord cannot be reached when the bot starts, or its answer breaks off", "waits for it, `start.wait_s` at most, and goes on within 15 s of its return; then one line, status 3",
        "The bot comes online once Discord can be reached."),
    Row(158, 20, "the machine's clock is years off, or a foreign certificate answers for Discord", "one line that names the clock, or the certificate", "As row 154."),
    Row(159, 20, "the environment names an HTTP proxy", "requests and gateway go through it, voice directly; a proxy of another kind is refused in one line", NOTHING),
    Row(160, 20, "the user has no home folder", "one line that asks for a data folder; no folder named `~` is made", "As row 154."),
    Row(161, 8, "the machine allows no further thread, or has no room for the speech process", "leaves no process behind; answers, and stops in order, ended by the kernel's alarm where that takes too long",
        "The reply says that there is no room; everything else works."),
    Row(162, 15, "a second process or another bot of a newer version is started on a database in use", "is refused before it changes a table or an index", NOTHING),
    Row(163, 2, "the database's disk is full or fails while the bot runs", "goes on without what it cannot store, counts it against no plugin, and says so in the log",
        "The reply says that the database cannot be written and whom to tell, and not to try again in a moment."),
    Row(165, 15, "a plugin's export of a person's data never ends", "gives it up after 5 s, counts it against the plugin and ends its thread; the rest of the data is exported",
        "The reply names the plugin that failed; other members wait 5 s longer."),
    Row(166, 2, "a plugin takes over an error of a command and answers nobody", "asks Discord whether the member has an answer, and gives one where there is none",
        "The reply says that something went wrong."),
    Row(170, 10, "SIGKILL in a server that has just switched voice off", "the next start ends the ghost there as anywhere",
        "The bot is seen for a few seconds more."),
    Row(171, 20, "foreign software takes the place of a killed bot, and `voice.exclusive` is off",
        "the next start leaves it alone: the dead process's journal names another session", NOTHING),
    Row(172, 10, "the database of a PostgreSQL server is dropped, emptied or replaced under the running bot",
        "as row 153; nothing is written into the new one", "The bot leaves voice and is offline."),
    Row(173, 4, "SIGTERM while a start opens the database, migrates data or loads a plugin",
        "gives the start up, undoes the migration and ends with status 0", NOTHING),
    Row(174, 20, "SIGKILL while commands are on their way to Discord",
        "the next start knows them as its own, and removes those that it no longer has", NOTHING),
    Row(175, 30, "a member whose audio kills the speech process stops and starts the transcription, to be heard again",
        "a death counts until its session ends and for an hour at least: three of one speaker mute them in every server, twelve mute a server, 24 all servers of one owner",
        "A line says who is not transcribed; others go on."),
    Row(176, 30, "one member, or members in servers of one owner, have the speech process die in many servers within a minute",
        "takes one of the five deaths after which the engine is given up from all of them together", "As row 175."),
    Row(177, 10, "Discord takes the first answer to a command or button, and its confirmation is lost",
        "sends it again, and takes \"already answered\" for the confirmation: the work goes on", NOTHING),
    Row(178, 20, "Discord's answer about the commands of a server breaks off, fails or cannot be read",
        "sends them again after 3 s, then with growing pauses; a refusal (4xx) is not repeated", "In that server alone, new commands come late."),
    Row(179, 15, "Discord takes a caption or another message of the bot, and its confirmation is lost",
        "each message has a nonce, by which Discord knows the repetition and posts nothing", NOTHING),
    Row(190, 2, "a member agrees and refuses, or refuses and agrees, within a millisecond, while the store takes its time", "counts the last press, in memory and in the store; an earlier one that is still under way never overwrites it",
        "Both replies say what counts."),
    Row(191, 1, "a member refuses while the database is locked or stands still, and the bot is killed", "does not hear them from that moment; keeps the refusal in a local file that never grows until the store has it, and starts from there",
        "The reply says that they are not heard; they are not heard after the next start either."),
    Row(192, 1, "a member refuses while the disk is full", "as row 191", "As row 191."),
    Row(193, 1, "a member refuses while PostgreSQL is stopped, and the bot is killed", "as row 191", "As row 191."),
    Row(194, 20, "the bot is killed at any moment of a decision", "starts from what the member was told last, or from a later press", "Nothing."),
    Row(195, 3, "the store does not say whether it has an agreement", "does not hear the member, notes that the agreement is void before it says so, and withdraws it in the store", "The reply says that nothing has changed."),
    Row(196, 1, "the store answers nothing while members use `/privacy` and the buttons of the notice", "defers every reply at once", "Replies that need the store come later, and say why."),
    Row(197, 2, "a member has their data deleted while the store is away", "lets none of their agreements count from that moment, also after a start; deletes the rest when asked again", "The reply says what counts, and to try again."),
    Row(198, 2, "more members refuse while the store is away than the local file has room for, and the bot is killed", "deletes all agreements at the next start, says so in the log and asks the members anew, once",
        "They are asked anew."),
    Row(199, 3, "neither the store nor the local file can be written when a member refuses", "does not hear them from that moment, and tries on", "The reply says that it is not kept yet, and whom to tell."),
    Row(200, 1, "a member withdraws, is forgotten or the transcription ends while a remote engine is asked for their words",
        "resets the request, sends nothing again, and drops what the service answers", "None of their words appear."),
    Row(201, 12, "Discord takes no edit of a caption whose words are withdrawn",
        "tries again with growing pauses, through the end of the session, and names the message if it gives up after some 10 minutes",
        "The words are gone as soon as Discord takes the edit, or members read which message to delete."),
    Row(202, 15, "Discord posts a caption and the answer is lost",
        "posts it again under the same nonce, and so learns which message it is", "Each caption appears once; withdrawn words in it are removed."),
    Row(203, 2, "a member withdraws or is forgotten while a transcript with their words is exported",
        "abandons the export, removes what was sent of it, and says so", "A reply that says to ask again; no file with their words."),
    Row(204, 6, "`transcript_process` raises, hangs or belongs to a plugin that is stopped after failures",
        "drops the line: it is neither stored nor posted", "The channel reads once that something said is missing."),
    Row(205, 2, "a transcription begins, whoever starts it and from wherever",
        "hears nobody before the notice stands in the voice channel's own chat and where the text goes",
        "The notice says what is stored and for how long, who can read and export it, and where the sound goes."),
    Row(206, 10, "a member comes late, in a pause, or between a stop and the next start, and Discord takes no notice",
        "hears nobody who came after the last notice, tries again, and hears them once one stands",
        "The reply says that the notice could not be posted; a latecomer is not captioned meanwhile."),
    Row(207, 10, "a second member comes within 10 s of the notice for the first",
        "hears each of them after a notice that was posted after they came; those who come together share one",
        "A latecomer is heard up to 10 s late."),
    Row(208, 2, "captions go to a channel that a member who speaks cannot see",
        "hears that member only after they pressed Agree on this notice, whatever they agreed to before",
        "The notice in the voice channel's chat names the channel."),
    Row(209, 10, "the time of keeping, or another fact of the notice, changes in mid-call",
        "finishes what was said, hears nobody before a new notice stands, and begins a new transcript; the old one is "
        "kept no longer than was told",
        "A new notice. Members who agreed to less are asked again."),
    Row(210, 2, "members agreed, and now their sound is to leave for a service",
        "hears nobody whose agreement does not cover that", "The notice names the service and asks them again."),
    Row(211, 2, "the bot may not write in the voice channel's own chat", "refuses to transcribe",
        "The reply names the channel and the permissions."),
    Row(212, 2, "another plugin begins to listen in mid-call", "hears nobody before a notice stands that names it",
        "A new notice."),
    Row(213, 2, "a transcription begins after a `/voice test`, whose notice told of no text", "as row 205",
        "A new notice."),
    Row(214, 2, "a member loses sight of the caption channel in mid-call", "hears them no more", "As row 208."),
    Row(215, 1, "in mid-call, a role or an overwrite comes or goes that decides who can be in the room, or read its captions",
        "captions wait from the change on, until nobody can read them who cannot be there",
        "The channel reads that captions pause, and later that they go on, with what was said meanwhile."),
    Row(216, 3, "captions are to go where roles together, or that of boosters, let somebody read who may not be in the room, and not all members are known",
        "decides for every set of roles; refuses, unless somebody who manages the server asks", "The reply says why, to the member alone."),
    Row(217, 3, "captions are to go to a private thread, and the bot does not know all members", "refuses, as row 216", "The reply says why, to the member alone."),
    Row(218, 3, "somebody outside asks for the status of a room that they cannot join, or for its transcripts", "names nobody and nothing of it",
        "The reply says that the bot is in use, or that there is no such transcript."),
    Row(219, 1, "in mid-call, a member who can read the captions gets a timeout, or a role that keeps them out of the room",
        "as row 215, with the intent GUILD_MEMBERS", "As row 215."),
    Row(220, 10, "the process is killed after a member's words were deleted, before their traces are out of the files",
        "removes them after the next start: the wish is on disk before the first word is deleted", NOTHING),
    Row(221, 6, "another program reads the database while a member's words are deleted", "answers in time, and goes on until no file holds them",
        "The reply says that the last traces are still being removed."),
    Row(222, 2, "a backup of a migration cannot be deleted with the words it holds", "deletes all else, and names it in the reply and the log", "The reply names the backup."),
    Row(223, 5, "the captions of a forgotten member are in a channel that is closed to the bot", "deletes all others", "The reply says how many messages could not be changed."),
    Row(224, 1, "the question before a deletion is answered twice, late or by somebody else", "deletes once, for the member who asked, within two minutes",
        "The others read why nothing was done."),
    Row(225, 1, "a plugin that decides who is heard, who may do something or whether a session opens is loaded or switched on in mid-call",
        "asks it about everybody at once, and about the session that runs", "Members whom it refuses are not heard any more, and their waiting words are dropped."),
    Row(226, 8, "a plugin that decides raises, hangs, blocks, answers wrongly or is quarantined",
        "refuses in its place until it is disabled or unloaded, except leaving, stopping and privacy; one line tells the owner",
        "The reply, which only who asked can read, names the plugin; an admin can switch it off."),
    Row(227, 1, "a plugin that decides is loaded anew in mid-call", "refuses in its place from before the old version is taken away until the new one is ready",
        "A gap in what the bot hears."),
    Row(228, 20, "a plugin that decides cannot be imported or loaded, at the start or later", "as row 226: the hooks that its source names are refused",
        "The reply names the plugin; an admin can switch it off."),
    Row(229, 15, "a check of a plugin's settings raises, exits or hangs", "fails the plugin, or leaves the server's own value out; everything else works",
        "The plugin is missing, or `/config` says that its check failed."),
    Row(230, 10, "in the mode `notice`, somebody who manages the server accepts that others read along who cannot be in the room",
        "hears only members who agree to this notice, as in the mode `opt-in`", "The notice says that they have to press Agree, and why."),
    Row(231, 10, "captions wait because the bot may not post them, and are sent on to a channel that a speaker cannot see",
        "leaves the words of that speaker out", "The channel reads how many captions are missing."),
    Row(232, 3, "a member who refuses asks to be forgotten in the mode `notice` while the database is locked",
        "withdraws their agreements at once, and keeps the refusal, without which they would be heard",
        "The reply says that the refusal stays, and what could not be deleted yet."),
    Row(233, 2, "a member confirms a deletion while the database does not answer at all", "goes on, and says so after 15 s",
        "The reply says that it is not done yet, and changes when it is."),
    Row(240, 6, "`transcript_process` answers with the line of another speaker, or changes its text and leaves the times of its words",
        "drops the line, as row 204; drops the times of the words", "As row 204. `/privacy forget-me` reaches every line that is stored."),
    Row(241, 6, "a plugin that decides whether a session opens is loaded, loaded anew or switched on in mid-call, and takes its time",
        "hears nobody until it has decided about the session that runs", "A gap in what the bot hears."),
    Row(242, 6, "a plugin that was given words, sound or data of a member raises them, or answers them wrongly",
        "leaves the text of such errors out of the log and of `/plugins why`; class, file and line stand there", NOTHING),
    Row(243, 3, "a transcript is deleted while somebody exports or reads it",
        "abandons the answer, removes what was sent of it, and says so", "A reply that the transcript has been deleted; no file."),
    Row(250, 5, "foreign software takes the bot's place in voice, or is in voice when somebody asks the bot to join, and `voice.exclusive` is off",
        "ends its own session without a voice request, and does not join while Discord shows the other one",
        "The bot leaves and says why; the reply to the command says why it does not join."),
    Row(251, 3, "a plugin keeps all threads that asyncio has for blocking calls busy",
        "has a pool of threads for each plugin and one for itself, which look-ups of names use", "Nothing in other servers."),
    Row(252, 2, "a plugin asks for thousands of reads and writes of the database at once",
        "has four of them under way at a time, the others wait for each other", "The plugin's own commands take long; decisions of members count at once."),
    Row(253, 8, "the database's disk or server hangs when the bot stops", "leaves voice and closes the gateway first; the process ends itself",
        "The bot is offline within 8 s, and can be started again."),
    Row(260, 2, "a member agreed to less than the notice of the running call asks for", "`/privacy status` and the replies to their decision say so",
        "The reply says that they are not heard in this call, why, and what to press."),
    Row(261, 2, "a plugin does not allow a member to be heard, and the member asks", "shows its reason to this member alone, in `/privacy` and `/voice test`",
        "The reply names the plugin and gives its reason."),
    Row(262, 5, "a plugin that decides who is heard fails or is stopped, so nobody is heard", "says so once in the channel, and in `/plugins why` from the first failure on",
        "A line in the channel names the plugin and the commands that help."),
    Row(263, 3, "a member agrees, refuses and has themselves forgotten again and again in a call", "posts no further notice: hears them again once they agree, or another notice is due",
        "The reply says how they are heard again."),
    Row(264, 5, "a member who is heard asks while captions wait because others could read along", "`/privacy status` says both", "The reply says why captions wait."),
    Row(265, 5, "the only member who said anything in a transcript has themselves forgotten", "deletes the transcript with their words, at the end if it goes on",
        "It is not listed any more."),
    Row(270, 2, "a command is used while the database is locked and several plugins take their time to check it",
        "asks the plugins at the same time, and defers every answer that needs the database", "The answer comes later; Discord shows that the bot is thinking."),
    Row(271, 1, "the speech engine takes long to start, or many members have to be asked who may read along", "defers the answer after a second, and says after 8 s what it waits for",
        "A reply that changes when the transcription begins."),
    Row(272, 2, "a member has captions posted in a channel or thread where they may not write, or which they cannot see", "refuses: it writes nowhere for members who could not write there themselves",
        "The reply, to the member alone, says what is missing."),
    Row(273, 2, "a server switches captions off and the storing of transcripts too while a transcription runs, or while the plugin is off", "hears nobody from that moment, and ends the transcription",
        "The channel reads why, and how to begin anew."),
    Row(274, 2, "captions go to a thread", "names the thread in its replies, and says in the notice that it is a thread of the channel", "Members know where to look."),
    Row(275, 4, "members move the bot to a voice channel in whose chat it cannot write", "hears nobody there, says so at once where its captions go, and tries again",
        "A line says what the bot needs."),
    Row(276, 2, "what Discord says of a reply that it took cannot be read", "takes the reply for given, goes on with what follows it, and complains of nothing", NOTHING),
    Row(280, 5, "a member withdraws, or others begin to read along, while a thread for the captions is being opened",
        "opens the thread first, and decides only then what may be posted", "The thread has the words of the others."),
    Row(281, 5, "a member who reads a transcript loses the right to, while the transcript is being read for them",
        "asks once more before each message and file", "The member reads that there is no such transcript for them."),
    Row(282, 5, "the database stores the line of a member who withdraws meanwhile, and its answer is lost",
        "deletes the line, as one whose answer has come", "The line is in no transcript."),
    Row(290, 5, "a member withdraws the last words of a message with captions while an edit of it is on its way",
        "deletes the message once that edit is answered", "The message vanishes."),
    Row(291, 5, "captions are switched on while something is said of which the notice told that it is not posted",
        "stores it without posting it; hears on after a new notice", "A new notice."),
    Row(300, 5, "an admin has transcripts kept longer and takes that back during a pause, and does it again later",
        "keeps what was said in between as its notice told, in a transcript of its own", "A new notice, and a new transcript."),
    Row(301, 5, "transcripts grow too old, or words wait to be taken back, while the plugin that has them is quarantined",
        "deletes them all the same", NOTHING),
    Row(305, 5, "the bot is killed or stopped while Discord refuses to take withdrawn words out of a message",
        "takes them out after its next start, for it keeps which lines of which message they are", "The words vanish after the start."),
    Row(306, 20, "the bot is killed while the store refuses to delete a line that its speaker withdrew",
        "deletes it at its next start: the line stored last of each transcript that a crash left open, if its speaker is not heard any more",
        NOTHING),
    Row(308, 3, "a plugin catches the cancellation with which its time in a hook ends, and goes on",
        "leaves its coroutine behind after half a second, counts a failure, and does without it", NOTHING),
    Row(310, 5, "a hook, command, check, choice or listener of a plugin cancels the task in which it is called",
        "counts as its failure, and a guard has refused; the task goes on", "The usual reply; a refusal names the plugin."),
    Row(311, 15, "a plugin cancels every task while another has work that lasts (`ctx.keep`)",
        "starts it again, logged and counted, the next times after growing pauses", NOTHING),
    Row(315, 5, "an older backup of the database is restored, with agreements that their members withdrew since",
        "does not count its agreements, deletes them, says so in one line and asks the members anew, once; refusals stay",
        "They are asked anew."),
    Row(316, 5, "a refusal is stored in another database, and then the first one, with the member's agreement, is used again",
        "as row 315", "As row 315."),
    Row(317, 5, "the disk zeroes the local record of refusals, which may have held some that the database lacks",
        "takes it for damage: as row 315", "As row 315."),
    Row(318, 5, "hooks that catch their cancellation are left behind while the locked database has their writes",
        "undoes the writes, which give back what they hold of the database; the plugin can store again at once",
        "The command is refused meanwhile."),
    Row(319, 15, "a second process is started on another name (a hard link) of the database's file",
        "refuses the second process in one line; the first one is not touched", NOTHING),
    Row(320, 3, "every hook of two plugins hangs while a command is decided about, a member's call is asked for and the failure is handled",
        "commands are answered or deferred all the same: no answer waits for `handle_error`",
        "`/privacy status` answers; a command that those plugins decide about is refused."),
    Row(321, 15, "the database does not answer, say PostgreSQL is stopped, while a deferred command needs it",
        "goes on with the work, and answers when it is done", "After 15 s the reply says that it takes longer."),
    Row(330, 2, "the bot or a process that has voices in its memory crashes where the system keeps images of crashed processes",
        "has the system write none, so no voice reaches a disk", "As row 81."),
    Row(331, 2, "a plugin that hears a call by a sink of its own is switched off in the server, paused or unloaded, and leaves the sink attached",
        "detaches the sink; the plugin may attach another one once it is on again", NOTHING),
    Row(332, 2, "a second plugin attaches a sink in mid-call and says nothing of itself",
        "tells of it by name in a new notice; nobody is heard before that stands, and who agreed before is asked anew",
        "A new notice."),
    Row(333, 4, "a caption waits for Discord's limit, or to be sent again after an error, and meanwhile readers come who may not be in the room",
        "does not send it when its turn comes; it is shown once they are gone", "Captions pause, and go on later."),
    Row(335, 4, "the connection to PostgreSQL breaks while it commits an agreement or a line, and the member is forgotten or withdraws before the commit is over",
        "reads and writes nothing until the server has ended that commit, for 10 s at most, and the next start neither: what is deleted does not appear later",
        "Replies that need the store come later, or say that it is busy."),
    Row(336, 8, "the database takes nothing, or does not answer, when a transcription is started, paused, resumed or stopped",
        "does it all the same, and stores later what a reload of speech-to-text goes on with",
        "The reply says what holds, and not that it failed."),
    Row(337, 4, "the network forgets the bot's connections to PostgreSQL, and the server does not know it yet",
        "goes on, and takes the lock of the database again once the server lets go of it; another process is refused meanwhile",
        NOTHING),
    Row(340, 3, "a bot with the intent GUILD_MEMBERS is in more servers than Discord takes requests for in a minute, or a plugin floods the gateway with presences",
        "asks for 12 servers' members a minute, first for those where captions wait for it: a whole minute's voice requests go out at once",
        "Nothing; captions that not everybody may read can be refused until the members are known."),
    Row(341, 3, "somebody on the way, or the voice server, sends sound in a member's name that this member has not encrypted",
        "drops it before it counts for anything, with either driver; stages, which are not encrypted, excepted", NOTHING),
    Row(342, 6, "the leave is lost when the voice plugin is unloaded, or the main gateway is down then",
        "leaves again for 2.4 s; the reply of `/bot plugins unload` says where Discord still shows the bot",
        "The bot leaves, or the owner reads that voice has to be loaded again to end it."),
)  # fmt: skip
"""Every fault there is, by rising number."""

BY_NUMBER = {row.number: row for row in ROWS}

HEAD = """\
# What can go wrong, and what happens then

<!-- Written by `make docs` from tests/faults/fault_table.py; a test keeps it fresh. -->

Roost promises that **no voice session ever leaks and no GPU is ever kept, whatever happens**. This is whatever happens. Every row has a test
that brings the fault about over real sockets (or real processes and signals) against the [simulated Discord](simulator.md) and measures how
long Roost takes. `make faults` runs the table and writes `build/faults.json`; `make faults FULL=1` runs it with Discord's real delays instead of
a tenth of them.

The bound is in seconds, from the fault to what Roost promises; 0 says that nothing may be delayed. Behind each row stand the
invariants: one session per server at most, never a voice state that nobody owns, and at rest not one task, socket, thread or file
more than before.
"""

ADDING = """
## How else it is proven

| command | what it does |
|---|---|
| `make test` | the table; cancellation at every await; every order of the events of a kick and of a move; the actor's state machine with its invariants after each of more than 10,000 steps |
| `make soak` | the same machine for a million steps, or `STEPS=`, and those of who is heard and who reads for 100,000 each, or `CONSENT_STEPS=`; a violation prints a seed that plays it again |
| `make live-soak` | a real bot under random commands and faults for an hour, or `SECONDS=`; at the end it holds what it held after its first call |
| `make kill-loop` | a real bot killed at random points, 1,000 times, or `N=`; no ghost 10 s after its next start, no other process's session touched |
| `make fuzz` | every parser of foreign bytes, with an established encryption group too |
| `make mutations` | mistakes built into a copy of Roost, the ways in which hikari's own voice component leaks among them: the tests must notice each |

A plugin's own tests find what it leaves behind with `roost.testing.leak_check`; the fixture `roost_bot` does so by default.

## Adding a fault

A row in `tests/faults/fault_table.py`, and a test in `tests/faults` that claims it. Here is a whole one:

```python
@pytest.mark.fault(42)
async def test_a_moderator_disconnects_the_bot(rig: Rig, fault: Fault) -> None:
    await rig.join(0)  # in voice, in the first channel
    with fault.clock():  # fails when it takes longer than the row's bound
        rig.sim.voice.remove(rig.guild, rig.bot_id)  # Discord's side of a kick
        reason, _stats = await rig.recorder.until("closed")
    assert "disconnected" in reason
    assert rig.place is None  # where Discord shows the bot
```

`rig` runs a hikari bot with the voice plugin; when it stops, the test fails if anything is left. A fault of Discord's is armed with
`rig.sim.faults.arm("mute_ready", rig.guild_id, {}, times=1)`; the names, and how to add one, are in [simulator.md](simulator.md)
(`GET /faults` lists them). A row whose fault no test can bring about says so in `not_injected` and counts as not passed.
"""


def page() -> str:
    """`docs/faults.md`, whole."""
    parts = [HEAD]
    for title, numbers in GROUPS.items():
        rows = [BY_NUMBER[number] for number in numbers if number in BY_NUMBER]
        if not rows:
            continue
        parts.append(
            f"\n## {title}\n\n| # | What goes wrong | What Roost does | What people notice | Bound (s) |\n|---|---|---|---|---|\n"
        )
        for row in rows:
            does = row.does + (f" (not tested: {row.not_injected})" if row.not_injected else "")
            parts.append(f"| {row.number} | {row.fault} | {does} | {row.seen} | {row.bound_s:g} |\n")
    return "".join(parts) + ADDING


if __name__ == "__main__":
    import sys
    from pathlib import Path

    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
