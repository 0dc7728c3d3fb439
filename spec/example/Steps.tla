------------------------------- MODULE Steps -------------------------------
\* A run written by hand: two brokers, the leader appends, is elected away by
\* a crash, comes back and follows. Trace.tla says what is in it.
\* settings: Brokers=2 Factor=2 MinInsync=1 Policy=fsync
EXTENDS Integers, Sequences

Steps == <<
  [act |-> "Appended", b |-> 1, end |-> 1, durable |-> 0, hw |-> 0],
  [act |-> "Asked", b |-> 2],
  [act |-> "Fetched", b |-> 1, from |-> 2, le |-> 1, off |-> 0, hw |-> 0],
  [act |-> "Answered", b |-> 2, le |-> 1, off |-> 0, end |-> 1, durable |-> 0],
  [act |-> "Synced", b |-> 2, durable |-> 1],
  [act |-> "Asked", b |-> 2],
  [act |-> "Fetched", b |-> 1, from |-> 2, le |-> 1, off |-> 1, hw |-> 0],
  [act |-> "Synced", b |-> 1, durable |-> 1, hw |-> 1],
  [act |-> "Appended", b |-> 1, end |-> 2, durable |-> 1, hw |-> 1],
  [act |-> "Crash", b |-> 1, end |-> 2, durable |-> 2, hw |-> 1],
  [act |-> "Expire", b |-> 1],
  [act |-> "LearnedAll"],
  [act |-> "Elect", leaving |-> {},
   record |-> [leader |-> 2, le |-> 2, isr |-> {2}, elr |-> {}]],
  [act |-> "Learned", b |-> 2, hw |-> 1],
  [act |-> "Appended", b |-> 2, end |-> 2, durable |-> 1, hw |-> 1],
  [act |-> "Register", b |-> 1],
  [act |-> "LearnedAll"],
  [act |-> "TakenIn", b |-> 1, record |-> [leader |-> 2, le |-> 2, isr |-> {2}]],
  [act |-> "LearnedAll"],
  [act |-> "Unfenced", b |-> 1],
  [act |-> "Learned", b |-> 2],
  [act |-> "Learned", b |-> 1],
  [act |-> "Asked", b |-> 1],
  [act |-> "Fetched", b |-> 2, from |-> 1, le |-> 2, off |-> 2, hw |-> 1],
  [act |-> "Answered", b |-> 1, le |-> 2, off |-> 2, end |-> 1, epochs |-> <<1>>],
  [act |-> "Asked", b |-> 1],
  [act |-> "Fetched", b |-> 2, from |-> 1, le |-> 2, off |-> 1],
  [act |-> "Wanted", b |-> 2, leaves |-> {}, enters |-> {1}],
  [act |-> "Written", b |-> 2, record |-> [leader |-> 2, isr |-> {1, 2}]],
  [act |-> "Learned", b |-> 2, hw |-> 1],
  [act |-> "Answered", b |-> 1, le |-> 2, off |-> 1, end |-> 2, epochs |-> <<1, 2>>],
  [act |-> "Synced", b |-> 1, durable |-> 2],
  [act |-> "Asked", b |-> 1],
  [act |-> "Synced", b |-> 2, hw |-> 1],
  [act |-> "Fetched", b |-> 2, from |-> 1, le |-> 2, off |-> 2, hw |-> 2]
>>
=============================================================================
