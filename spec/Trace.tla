------------------------------- MODULE Trace -------------------------------
(***************************************************************************)
(* Is a run one that replication.tla allows? The run is in a module Steps, *)
(* that defines Steps, a sequence of records. Each has                     *)
(*                                                                         *)
(*   act      the action, by its name in replication.tla                   *)
(*   b        the broker that it is about: of Fetched the leader, of       *)
(*            TakenIn and Unfenced the one that registered; brokers are    *)
(*            1, 2, ..., None is 0                                         *)
(*                                                                         *)
(* and what tells it from others of that name:                             *)
(*                                                                         *)
(*   from, le, off          Fetched: follower, leader epoch, offset        *)
(*   le, off                Answered: of the fetch that it answers         *)
(*   leaves, enters         Wanted: sets of brokers                        *)
(*   leaving                Elect: set of brokers                          *)
(*   target                 Reassign: set of brokers                       *)
(*   min                    ChangeMinInsync                                *)
(*                                                                         *)
(* and what was seen after it, all or some of                              *)
(*                                                                         *)
(*   end, durable, hw       of broker b                                    *)
(*   epochs                 of b's records, a sequence                     *)
(*   record                 in etcd: leader, le, replicas, isr, elr        *)
(*                                                                         *)
(* What changed nothing (a fetch or answer that is not taken, a write that *)
(* is not made) is no step. A comment line "settings:" names the constants *)
(* Brokers, Factor, MinInsync, Policy, Unclean; broker 1 leads at first,   *)
(* under leader epoch 1, and 1..Factor are the replicas.                   *)
(*                                                                         *)
(* TLC looks for a behaviour that does all steps: the invariant Unfinished *)
(* has to fail. `check --trace FILE` runs it.                              *)
(***************************************************************************)
EXTENDS replication, Steps

VARIABLE at
traceVars == <<vars, at>>

Has(s, field) == field \in DOMAIN s

\* Messages stay on their way, so that there is one behaviour and not one for
\* each that may be lost.
AskedAgain(f) ==
  /\ IsFollower(f)
  /\ durable[f] = Len(log[f])
  /\ requests' = requests \cup {Ask(f)}
  /\ UNCHANGED <<etcd, key, broker, image, log, durable, hw, lead, orphans, ctl,
                 answers, ghosts, left>>

Does(s) ==
  CASE s.act = "Learned" ->
         Learned(s.b) \/ (Seen(s.b) = image[s.b] /\ UNCHANGED vars)
    [] s.act = "LearnedAll" ->
         \E c \in ctl : LearnedAll(c) \/ (c.image = etcd /\ UNCHANGED vars)
    [] s.act = "Appended" -> Appended(s.b)
    [] s.act = "Synced" -> Synced(s.b)
    [] s.act = "Asked" -> AskedAgain(s.b)
    [] s.act = "Fetched" ->
         \E m \in requests : /\ m.from = s.from /\ m.le = s.le /\ m.off = s.off
                             /\ Fetched(s.b, m)
                             /\ requests' = requests
    [] s.act = "Answered" ->
         \/ \E a \in answers : a.le = s.le /\ a.off = s.off /\ Answered(s.b, a)
         \/ UNCHANGED vars \* an answer without news
    [] s.act = "Wanted" -> Wanted(s.b, s.leaves, s.enters)
    [] s.act = "Written" -> Written(s.b)
    [] s.act = "WrittenLate" -> WrittenLate
    [] s.act = "Refused" -> Refused(s.b)
    [] s.act = "Unsure" -> Unsure(s.b)
    [] s.act = "Elect" -> \E c \in ctl : Elect(c, s.leaving)
    [] s.act = "Preferred" -> \E c \in ctl : Preferred(c)
    [] s.act = "TakenIn" -> \E c \in ctl : TakenIn(c, s.b)
    [] s.act = "Unfenced" -> \E c \in ctl : Unfenced(c, s.b)
    [] s.act = "Reassign" -> \E c \in ctl : Reassign(c, s.target)
    [] s.act = "Progress" -> \E c \in ctl : Progress(c)
    [] s.act = "TakenOver" -> TakenOver
    [] s.act = "ChangeMinInsync" -> ChangeMinInsync(s.min)
    [] s.act = "Expire" -> Expire(s.b)
    [] s.act = "Crash" -> Crash(s.b)
    [] s.act = "LoseDisk" -> LoseDisk(s.b)
    [] s.act = "LoseCache" -> LoseCache(s.b)
    [] s.act = "Register" -> Register(s.b)

Shows(s) ==
  /\ Has(s, "end") => Len(log'[s.b]) = s.end
  /\ Has(s, "durable") => durable'[s.b] = s.durable
  /\ Has(s, "hw") => hw'[s.b] = s.hw
  /\ Has(s, "epochs") => [i \in DOMAIN log'[s.b] |-> log'[s.b][i].e] = s.epochs
  /\ Has(s, "record") => \A field \in DOMAIN s.record :
                           etcd'.record[field] = s.record[field]

TraceInit ==
  /\ Init
  /\ etcd.record.leader = 1
  /\ etcd.record.replicas = 1..Factor
  /\ at = 1

TraceNext ==
  /\ at <= Len(Steps)
  /\ Does(Steps[at])
  /\ Shows(Steps[at])
  /\ at' = at + 1

TraceSpec == TraceInit /\ [][TraceNext]_traceVars

Unfinished == at <= Len(Steps)
=============================================================================
