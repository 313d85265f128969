"""Every limit of the mesh, with its unit and the reason for its size.

Limits that an operator may want to change are settings (``settings.py``) whose
defaults are taken from here.
"""

from __future__ import annotations

# --- messages -----------------------------------------------------------------------

#: Largest payload (arguments or result of one task). Larger frames delay heartbeats
#: (libzmq#2709); bigger data should travel by reference.
PAYLOAD_BYTES_MAX = 16 * 1024 * 1024
#: Largest single frame: a payload and room for its envelope. Set as ZMQ_MAXMSGSIZE.
FRAME_BYTES_MAX = PAYLOAD_BYTES_MAX + 1024 * 1024
#: ZMQ_MAXMSGSIZE counts a frame, not a message, so frames are counted too.
FRAMES_PER_MESSAGE_MAX = 16
#: Payloads above this travel as frames of their own (pyzmq copies below it anyway).
BLOB_BYTES_MIN = 64 * 1024
#: Natural batching: a message takes what waits, up to these bounds.
BATCH_COUNT_MAX = 256
BATCH_BYTES_MAX = 256 * 1024
#: Results up to this size travel inside DONE; larger ones are fetched by position.
RESULT_INLINE_BYTES_MAX = 8 * 1024
#: Arguments that outcomes tell (`result_extended`); larger ones would make all of them heavy.
TOLD_ARGUMENTS_BYTES_MAX = 8 * 1024
#: Tasks that an outcome names as submitted by its task: 4 KiB of ids.
CHILDREN_TOLD_MAX = 256

# --- peers --------------------------------------------------------------------------

#: Links to other nodes; each costs about 31 KiB and a file descriptor.
PEERS_COUNT_MAX = 1024
#: Addresses heard of but not linked (spoofed mDNS must not fill memory).
CANDIDATES_COUNT_MAX = 1024
#: A candidate none of whose addresses answers is forgotten after this, in milliseconds.
CANDIDATE_FORGOTTEN_MS = 600_000
#: A candidate's addresses that are kept.
ENDPOINTS_PER_PEER_MAX = 16
#: Bare ACK when this many messages came without anything to send back.
UNACKED_MESSAGES_MAX = 32

#: Things said once that a node remembers; beyond it they may be said again.
NOTED_COUNT_MAX = 10_000

# --- tasks --------------------------------------------------------------------------

#: Open tasks of one producer; `delay()` waits at the limit, then raises.
OPEN_TASKS_MAX = 1_000_000
OPEN_BYTES_MAX = 1024 * 1024 * 1024
#: Tasks an intake holds beyond which it refuses (credit is the normal bound).
INTAKE_TASKS_MAX = 20_000
INTAKE_BYTES_MAX = 256 * 1024 * 1024
#: Other tasks that one task may wait for, and bytes that each of them takes in its facts: their
#: ids travel with it.
INPUTS_COUNT_MAX = 100_000
INPUT_BYTES = 24
#: Bytes of the errbacks that travel with a call, and of calls that join a chord with an outcome.
CARRIED_BYTES_MAX = 64 * 1024
#: Strikes (worker or child deaths while the task ran) that make a task dead.
STRIKES_MAX = 3
#: A task that was so often among several that ran on a worker that died is kept apart from
#: others like it, so that the next death tells which one it was.
AMONG_MAX = 2
#: A task that rejects itself to be run again waits so long the first time, in milliseconds,
#: and twice as long each time, up to the second.
REQUEUE_DELAY_MS = 10
REQUEUE_DELAY_MS_MAX = 10_000
#: Dead tasks that an owner keeps with their arguments, for people to look at and retry.
DEAD_COUNT_MAX = 10_000
DEAD_BYTES_MAX = 256 * 1024 * 1024
#: Tasks whose story is kept (only those to which something unusual happened have one), and
#: lines of one story.
STORIES_COUNT_MAX = 10_000
STORY_LINES_MAX = 40
#: Open tasks older than this are written to the journal: a producer that is killed loses
#: at most what it submitted since. Looked for every so often, so many in one go.
WRITE_BEHIND_MS = 1_000
WRITE_BEHIND_EVERY_MS = 100
WRITE_BEHIND_COUNT = 5_000
#: Tasks that come due, or expire, in one turn; more would hold up its heartbeats.
DUE_COUNT_MAX = 5_000
#: While tasks wait for the wall clock it is looked at this often: it may be set.
CLOCK_LOOK_MS = 1_000
#: Offers to one taker that are under way; each has as much as a message takes.
HANDOFF_OFFERS_MAX = 4
#: A taker that refused is asked again after this, in milliseconds.
HANDOFF_RETRY_MS = 1_000
#: A task for one worker only ends when that cannot run it for so long, in milliseconds: it
#: may have left just before the call, and new owners of a task take a moment to find it.
ADDRESSEE_MISSED_MS = 5_000
#: Tasks that no worker in sight can run go to a broker after this, in milliseconds.
HANDOFF_UNSERVED_MS = 1_000
#: Task ids in one question about the offers of a node that came back.
HANDOFF_IDS_MAX = 4_096
#: While a giver stays away everybody is asked about its tasks ever more seldom: the last
#: delay in milliseconds (the first is OWNER_GONE_MS).
HANDOFF_ASK_MS_MAX = 3_600_000
#: Tasks cancelled last whose ids an owner can tell.
CANCELLED_TOLD_MAX = 1_000
#: Cancellations of tasks given away that their new owners have not answered.
REVOKED_OWED_MAX = 10_000
#: Tasks given away of which a former owner remembers who has them.
GIVEN_REMEMBERED_MAX = 100_000
#: After a restart of an owner the workers that still run its tasks have so long to say so.
RESUME_GRACE_MS = 1_000
#: Calls with chosen ids whose content a producer remembers after they have settled.
CHOSEN_IDS_MAX = 100_000
#: At-most-once tasks whose result may still come; older ones are given up.
LANE_UNANSWERED_MAX = 100_000
#: Outcomes kept in memory by a worker: for readers when no store is around, and for a
#: store that is away or slow, beyond which they go to the disk.
RESULT_LOG_BYTES_MAX = 64 * 1024 * 1024
RESULT_LOG_AGE_MS_MAX = 3_600_000
#: Settled outcomes an owner keeps for late readers.
SETTLED_KEPT_COUNT_MAX = 100_000
SETTLED_KEPT_BYTES_MAX = 64 * 1024 * 1024
#: A store lost for this long no longer holds results back (logged).
STORE_GONE_MS = 600_000
#: One that said goodbye: for so long it may be back from an upgrade.
STORE_LEFT_MS = 120_000
#: Forgotten tasks that a store remembers, and for how long, to drop what of them is
#: still on its way.
FORGOTTEN_COUNT_MAX = 100_000
FORGOTTEN_MS = 60_000
#: Watchers (other processes waiting for a result) an owner or store remembers.
WATCHES_COUNT_MAX = 100_000
#: Of one task. Whoever waits asks again now and then, so the first ones may go.
WATCHES_PER_TASK_MAX = 100
WATCH_AGAIN_MS = 30_000

# --- result stores ------------------------------------------------------------------

#: What a store node holds that its back end has not committed yet; past it batches are
#: refused, stay unacknowledged at their publisher and come again by replay.
STORE_BACKLOG_ROWS_MAX = 200_000
STORE_BACKLOG_BYTES_MAX = 256 * 1024 * 1024
#: Batches that wait together are committed together, up to these bounds.
STORE_MERGE_ROWS_MAX = 2_048
STORE_MERGE_BYTES_MAX = 8 * 1024 * 1024
#: Task ids that wait to be looked up in the back end.
STORE_READ_IDS_MAX = 100_000
#: Task ids looked up in one statement (SQLite's oldest bound is 999 variables).
STORE_READ_IDS_PER_CALL_MAX = 500
#: Trying again after the back end failed: first and last delay.
STORE_RETRY_MS_MIN = 100
STORE_RETRY_MS_MAX = 5_000
#: How often results past their time are dropped.
STORE_EXPIRE_MS = 30_000
#: Dropped in one transaction; more would keep the writer from its batches. Bytes count
#: too, since freeing a large body walks all of its pages.
STORE_EXPIRE_ROWS_MAX = 500
STORE_EXPIRE_BYTES_MAX = 8 * 1024 * 1024
#: Default of ``memory://?bytes_max=``; past it the store refuses, visibly.
MEMORY_STORE_BYTES_MAX = 256 * 1024 * 1024
#: Waiting for another process's write lock, milliseconds.
SQLITE_BUSY_MS = 5_000
#: Checkpoint after so many 4 KiB pages in the write-ahead log (16 MiB).
SQLITE_CHECKPOINT_PAGES = 4_000

# --- results on their way to a store ---------------------------------------------------

#: Outcomes of one node that wait on its disk for a store.
RESULT_SPILL_BYTES_MAX = 4 * 1024 * 1024 * 1024
#: Left free on that disk (or a sixteenth of a small one), for journals and stores.
SPILL_RESERVE_BYTES = 1024 * 1024 * 1024
#: Written to the disk at once; what is being written stays in memory until it is there.
SPILL_BATCH_ROWS_MAX = 1_024
SPILL_BATCH_BYTES_MAX = 4 * 1024 * 1024
#: Payloads below this stay in memory while their owner has not decided: so does the rest
#: of such an outcome, which weighs about as much.
SPILL_BODY_BYTES_MIN = 4 * 1024
#: Trying again after the disk failed, and how often a failing disk is tried at once.
SPILL_RETRY_MS = 1_000
SPILL_TRIES = 3
#: Deleted in one transaction; what else is asked for has its turn in between.
SPILL_TRIM_ROWS_MAX = 2_000
SPILL_TRIM_BYTES_MAX = 8 * 1024 * 1024
#: Task ids that wait to be looked up on the disk.
SPILL_FIND_IDS_MAX = 10_000
#: Replayed to one peer and not acknowledged by it. More would only wait in sockets.
REPLAY_WINDOW_BYTES = 8 * 1024 * 1024
#: Pieces read from the disk at once, for all peers together.
REPLAY_READS_MAX = 4
#: Positions that one peer may ask for and has not got.
REPLAY_POSITIONS_MAX = 100_000
#: Messages of answers that wait for one peer; one that takes none gets no more.
ANSWERS_PER_LINK_MAX = 10_000
#: Tasks looked up at once for one question: at first, and what they should weigh.
LOOKUP_CHUNK_MIN = 4
LOOKUP_CHUNK_BYTES = 4 * 1024 * 1024
#: Such lookups under way, and ids that wait for theirs.
LOOKUPS_MAX = 4
LOOKUP_IDS_MAX = 100_000
#: Published and not stored by a store that is linked; what comes then it asks for.
PUB_AHEAD_BYTES_MAX = 16 * 1024 * 1024
#: Bare ACK when this much came without anything to send back.
UNACKED_BYTES_MAX = 1024 * 1024

# --- journals -----------------------------------------------------------------------

#: Checkpoint after so many 4 KiB pages in a journal's write-ahead log (4 MiB). So much is
#: also set aside for it, to be able to note what settled when the disk is full.
JOURNAL_CHECKPOINT_PAGES = 1_000
#: New tasks are refused when less than this is free on the disk (or a sixteenth of a small
#: one): a checkpoint of the log and the notes about open tasks need it.
JOURNAL_RESERVE_BYTES = 8 * 1024 * 1024
#: The free space of the disk is asked for anew after so many commits, other programs use
#: it too.
JOURNAL_ROOM_COMMITS = 64
#: Rows of one statement, a power of two; fewer where SQLite cannot take so many variables.
#: Each statement gives the interpreter lock away, and a busy thread keeps it for 5 ms.
JOURNAL_ROWS_PER_STATEMENT = 1_024
#: Unused pages of the file are given back to the disk when there are more than this
#: (8 MiB; 1 MiB when it is closed) and more than used ones, looked at every so many commits
#: and when there are no more tasks.
JOURNAL_FREE_PAGES_MAX = 2_000
JOURNAL_CLOSED_FREE_PAGES_MAX = 256
JOURNAL_SHRINK_COMMITS = 64
JOURNAL_SHRINK_PAGES = 500
#: The file is written anew instead when so few pages are used: 2 MiB, some milliseconds.
JOURNAL_REWRITE_PAGES_MAX = 500
#: What a journal notes of a task's whereabouts; only the stories of dead ones are long.
JOURNAL_MARK_BYTES_MAX = 64 * 1024
#: Damages of a journal that are told one by one.
JOURNAL_DAMAGES_MAX = 20
#: Rows looked for one by one between the readable ends of a damaged journal.
JOURNAL_PROBES_MAX = 100_000
#: Slots of one mesh on one host: long-lived nodes and outboxes that wait to be adopted.
JOURNAL_SLOTS_MAX = 1_024
#: Nodes look for journals that ended processes left on their host every so often, and
#: when one ends, with more looks after it: the kernel frees its locks one after another.
ADOPT_EVERY_S = 10.0
ADOPT_SOON_S = (0.05, 0.25, 1.0)
#: A journal that is free for so long is taken over even if no tasks are in it: its node does
#: not come back at once, and somebody may wait for what it had done.
ADOPT_EMPTY_S = 60.0
#: Ended nodes that a journal remembers as those whose tasks came into it; the last ones.
JOURNAL_FORMER_MAX = 256
#: Ended nodes whose tasks a node tells everybody that it owns now; the last ones.
HEIR_OF_COUNT_MAX = 1_024
#: Tasks taken over from another journal in one commit.
JOURNAL_INHERIT_TASKS = 1_000
JOURNAL_INHERIT_BYTES = 4 * 1024 * 1024
#: What waits for a journal to be written; past it new tasks are refused.
JOURNAL_BACKLOG_TASKS_MAX = 100_000
JOURNAL_BACKLOG_BYTES_MAX = 256 * 1024 * 1024
#: Batches that wait together are committed together, up to these bounds.
JOURNAL_MERGE_TASKS_MAX = 4_096
JOURNAL_MERGE_BYTES_MAX = 8 * 1024 * 1024
#: Trying again after the disk failed: first and last delay, and how often new tasks are
#: tried before they are refused.
JOURNAL_RETRY_MS_MIN = 50
JOURNAL_RETRY_MS_MAX = 2_000
JOURNAL_TRIES = 4

# --- children -----------------------------------------------------------------------

#: A line that a task writes; longer ones are cut into pieces of this many characters.
LOG_LINE_CHARS_MAX = 8 * 1024
#: An error's short text in an outcome; the whole message travels in its payload.
ERROR_TEXT_CHARS_MAX = 200
#: A finished task waits at most about this long for others before it is reported.
CHILD_FLUSH_US = 1_000
#: Restart of a child that ends before it is ready: first and last delay.
CHILD_RESTART_MS_MIN = 100
CHILD_RESTART_MS_MAX = 5_000
#: Tasks that a worker runs at once.
SLOTS_MAX = 4096
#: The same with pool ``asyncio``, if nothing is said.
ASYNCIO_SLOTS = 1_000
#: Where slots share a process: tasks that may have ended such a process run in so many
#: processes of their own at once; so many processes that are replaced may be finishing theirs.
SUSPECTS_AT_ONCE = 8
LEAVING_AT_ONCE = 4
#: Idle children run their exit handlers within this time when the pool stops.
CHILD_EXIT_MS = 1_000
#: When a node ends, receivers of ``worker_shutdown`` have this time, and then what that process
#: owns to go to others (at most 5 s of it) and to the disk. With the time to drain, both fit into
#: what service managers wait (45 s in ``deploy/``).
HOOKS_EXIT_MS = 5_000
HOOKS_LEAVE_MS = 8_000
HOOKS_GIVE_S = 5.0
#: With autoscale: how often the worker is looked at, and how long tasks must wait behind
#: busy slots before there are more.
AUTOSCALE_LOOK_MS = 100
AUTOSCALE_GROW_MS = 200
#: Calls that one running task hands to its owner in one request.
CHILD_SUBMIT_COUNT_MAX = 1_000
CHILD_SUBMIT_BYTES_MAX = 4 * 1024 * 1024
#: One state that a task gives itself, or one item that it yields.
UPDATE_BYTES_MAX = 256 * 1024
#: Bytes that a worker sent an owner, and that this has not taken: more than that, and it is told
#: of states that tasks give themselves when it has.
NEWS_UNACKED_BYTES_MAX = 1024 * 1024
#: Last states that running tasks gave themselves, kept by their owner.
SAID_COUNT_MAX = 10_000
SAID_BYTES_MAX = 16 * 1024 * 1024
#: A generator task is so many items, or so many bytes of them, ahead of what its owner has
#: got; then it pauses.
STREAM_AHEAD_COUNT = 1_000
STREAM_AHEAD_BYTES = 1024 * 1024
#: Items that wait in a handle until they are read.
STREAM_KEPT_BYTES_MAX = 64 * 1024 * 1024

# --- timers, in milliseconds --------------------------------------------------------

HEARTBEAT_MS = 1_000
#: Worker-side right to start queued tasks; below LOST_MS so that a worker gives up
#: before its owner does.
LEASE_MS = 3_000
#: ZMTP alive but the peer's loop silent: no new work for it.
STALLED_MS = 3_000
#: Silent on both signals.
LOST_MS = 4_000
#: An owner that cannot be reached for this long is gone for those who ask about its tasks:
#: then the first outcome that is known stands.
OWNER_GONE_MS = 60_000
#: Nobody may say that a task is unknown while a node with a journal cannot be reached, but for
#: so long at most: it may own the tasks of others.
HEIR_AWAY_MS = 15_000
#: A producer that was killed may have left an outbox; a node of its host has it by then.
OUTBOX_ADOPTED_MS = 5_000
#: ZMTP alive but the loop silent for this long: lost as well.
STALLED_LOST_MS = 60_000
#: A gap in a publisher's numbers must last this long before it is asked for.
GAP_MS = 50
#: A running task is reported STARTED when a turn finds it older than this.
STARTED_REPORT_MS = 20
#: Dialling again after a failure: first and last delay.
REDIAL_MS_MIN = 100
REDIAL_MS_MAX = 5_000

# --- periodic tasks -----------------------------------------------------------------

#: Shortest interval. Each tick is published to all beats and written down.
BEAT_INTERVAL_MS_MIN = 100

# --- files in the runtime directory -------------------------------------------------

#: How often a node looks whether its files are still there: for so long nobody new finds
#: it after a logout or a cleaner has removed them. Some calls of stat(2) each time.
RUNTIME_CHECK_MS = 5_000
#: How often it renews their times; cleaners of temporary folders remove what is days old.
RUNTIME_TOUCH_MS = 3_600_000
#: Sockets bound again; each time leaves a listener behind (a file descriptor), since
#: closing it would cut the links that came in through it.
RUNTIME_REBINDS_MAX = 64
#: Lock files of other processes that are kept open, to tell one that vanished from one
#: that is free. A descriptor each, of which a process may have only 1024.
LOCKS_HELD_MAX = 256

# --- libzmq -------------------------------------------------------------------------

#: A net only: credit bounds what is under way.
SOCKET_HWM = 4_096
PUB_HWM = 10_000
#: The at-most-once lane: small, since PUSH deals blindly to the first that connect.
PUSH_HWM = 64
ZMTP_HEARTBEAT_MS = 1_000
ZMTP_TIMEOUT_MS = 3_000
ZMTP_TTL_MS = 6_000
HANDSHAKE_MS = 5_000

# --- beats --------------------------------------------------------------------------------

#: Ticks of one entry that are remembered after they ended; open ones are beside that. Two
#: beats that were cut off from each other can tell of so many which of them both started.
TICKS_KEPT_MAX = 100
#: Ticks of one entry whose tasks have not ended. At this many further ones are not started,
#: which is said: nobody runs them, and they would fill their owner.
TICKS_OPEN_MAX = 1_000
#: A tick that is late by more counts as missed: so long may beats take to follow each other,
#: or a node to start again, in milliseconds.
TICK_LATE_MS = 60_000
#: Missed ticks of one entry that are looked at, the latest ones.
MISSED_TICKS_MAX = 1_000
#: A clock that was set back by more is believed: what was started before, by a clock that was
#: ahead, then does not keep ticks from being started until that time comes, in milliseconds.
CLOCK_BACK_MS = 24 * 3_600_000
#: Entries of one application that have a schedule.
BEAT_ENTRIES_MAX = 10_000
#: A beat that has just come, or whose clock has jumped, listens to the others for so long
#: before it starts ticks, in milliseconds.
BEAT_LISTEN_MS = 2_000
#: Whether the task of a tick is known to anybody is asked for so long, in milliseconds.
TICK_ASKED_MS = 1_000
#: Ticks in one message between beats.
BEATS_TICKS_MAX = 500
