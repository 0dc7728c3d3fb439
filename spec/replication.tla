---------------------------- MODULE replication ----------------------------
(***************************************************************************)
(* How one partition is replicated: docs/cluster.md as a state machine.    *)
(*                                                                         *)
(* etcd holds the truth; each broker has an image of it that may be late,  *)
(* and every write compares what it was decided on. Nothing else goes from *)
(* broker to broker but fetches and their answers, which may be lost,      *)
(* delayed, overtaken and delivered twice. A process may stop at any step; *)
(* a lease may run out while its process goes on; a disk may be lost.      *)
(*                                                                         *)
(* Each comparison that keeps records safe is a member of Guards. Without  *)
(* one of them a property at the end of the module must fail: `check`      *)
(* tries each.                                                             *)
(*                                                                         *)
(* Not here: tiering (a replica that begins at the tiered end), several    *)
(* partitions, clocks (whatever a clock may trigger may happen any time),  *)
(* and that what was cut off a log stays cut off: a truncation is on disk  *)
(* before the replica's next fetch.                                        *)
(***************************************************************************)
EXTENDS Integers, Sequences, FiniteSets, TLC

CONSTANTS
  Brokers,
  None,          \* no broker
  Factor,        \* replicas at the beginning
  MinInsync,     \* min.insync.replicas at the beginning
  Policy,        \* firn.ack.policy: "fsync" or "replicated"
  Unclean,       \* unclean.leader.election.enable
  LazySync,      \* a follower's records may be readable before they are durable
  Checkpoint,    \* a high watermark may be known still after a crash
  LateController,\* the controller's image, too, may be late
  Guards,        \* the comparisons in force, see AllGuards
  Fetches,       \* on their way at once, of each follower
  Answers,       \* on their way at once, to each follower
  \* How often each of these may happen.
  Appends, Crashes, Expiries, DiskLosses, CacheLosses, Shrinks, Timeouts,
  Duplicates, Takeovers, Moves, Leavings, Reassigns, MinChanges

AllGuards == {
  "LeaderEpoch",      \* a leader takes fetches of its own leader epoch only
  "FetchEpoch",       \* ... and of those that its image has as unfenced
  "History",          \* ... and an end only where both histories agree
  "Divergence",       \* a follower truncates by epochs, not to its high watermark
  "Answer",           \* a follower takes answers to what it asks now
  "Durable",          \* ends are durable ends
  "Entering",         \* the high watermark waits for replicas that enter the ISR
  "Pending",          \* an ISR change of unknown outcome stays pending
  "MinIsr",           \* the high watermark needs min.insync.replicas in the ISR
  "NoElr",            \* ... and an empty ELR
  "Begin",            \* entry only from where the leader's epoch begins
  "Revision",         \* the leader's write compares the record's revision
  "OwnRegistration",  \* ... and the leader's registration
  "EntryEpoch",       \* ... and the broker epochs of whoever enters
  "ElectRevision",    \* the controller's write compares the record's revision
  "ControllerKey",    \* ... and the controller key
  "NewEpoch",         \* a new registration of the leader: a new leader epoch
  "OwnImage",         \* a broker leads by images that show it unfenced as itself
  "RecordsFirst",     \* unfenced only after the partition records
  "UnfenceEpoch",     \* unfenced only if the registration is still that one
  "LostIsr",          \* a broker without its bytes leaves the ISR
  "LostElr",          \* ... and the ELR
  "CacheId",          \* loss of the page cache is known until it was taken in
  "RemovalEpoch",     \* a new leader epoch when replicas are removed
  "RemainingIsr"      \* replicas are removed only if enough stay in the ISR
  }
ASSUME Guards \subseteq AllGuards
G(g) == g \in Guards

VARIABLES
  etcd,       \* the truth: [record, reg, unf, min]
  key,        \* the revision at which the controller key was made
  broker,     \* [up, epoch, disk, cache, ran, last] of each broker
  image,      \* what each broker has seen of etcd: [record, unf, peers, min]
  log,        \* each replica: records [e |-> leader epoch, v |-> value]
  durable,    \* each replica's durable end
  hw,         \* each replica's high watermark
  lead,       \* what a leader knows: [begin, ends, seen, entering, unsure, pending]
  orphans,    \* ISR changes on their way whose sender waits no longer
  ctl,        \* who think they are the controller: [epoch, image, taken]
  requests,   \* fetches on their way
  answers,    \* answers on their way
  committed,  \* all that was ever below a leader's high watermark
  advanced,   \* <<leader epoch, broker, broker epoch>> of those who raised one
  lost,       \* of each value, how many copies went with their disk or page cache
  unclean,    \* an unclean election has happened
  least,      \* the least min.insync.replicas there ever was
  left        \* what may still happen

net    == <<requests, answers>>
ghosts == <<committed, advanced, lost, unclean, least>>
vars   == <<etcd, key, broker, image, log, durable, hw, lead, orphans, ctl,
            net, ghosts, left>>

Min(S) == CHOOSE x \in S : \A y \in S : x <= y
Max2(a, b) == IF a >= b THEN a ELSE b
Min2(a, b) == IF a <= b THEN a ELSE b

(***************************************************************************)
(* Values of "there is none".                                              *)
(***************************************************************************)
Unknown   == -1
NoReg     == [epoch |-> 0, disk |-> 0, cache |-> 0, lost |-> FALSE]
NoChange  == [kind |-> "none"]
NotLeading == [begin |-> 0, ends |-> [f \in Brokers |-> Unknown],
               seen |-> [f \in Brokers |-> 0], entering |-> {},
               unsure |-> FALSE, pending |-> NoChange]
NoRecord  == [leader |-> None, le |-> 0, pe |-> 0, replicas |-> {}, isr |-> {},
              elr |-> {}, adding |-> {}, removing |-> {}]
NoPeers   == [f \in Brokers |-> 0]
NoImage   == [record |-> NoRecord, unf |-> 0, peers |-> NoPeers, min |-> MinInsync]

(***************************************************************************)
(* Words of docs/cluster.md.                                               *)
(***************************************************************************)
\* min.insync.replicas of a partition that may have fewer replicas; those that
\* a reassignment adds or removes do not make it more.
Enough(min, rec) ==
  Max2(1, Min({min, Cardinality(rec.replicas \ rec.adding),
                    Cardinality(rec.replicas \ rec.removing)}))

Eligible(img) == {b \in Brokers : /\ img.reg[b].epoch # 0
                                  /\ img.reg[b].epoch = img.unf[b].epoch}

\* The record with another ISR. Whoever leaves one that is now too small may
\* still be elected.
WithIsr(rec, isr, min) ==
  [rec EXCEPT !.isr = isr,
              !.elr = IF Cardinality(isr) >= Enough(min, rec) THEN {}
                      ELSE (rec.isr \cup rec.elr) \ isr]

Owns(b, img, be) == /\ be # 0
                    /\ \/ ~G("OwnImage")
                       \/ img.unf = be
Leads(b, img, be)   == Owns(b, img, be) /\ img.record.leader = b
IsLeader(b)   == broker[b].up /\ Leads(b, image[b], broker[b].epoch)
IsFollower(b) == /\ broker[b].up
                 /\ Owns(b, image[b], broker[b].epoch)
                 /\ image[b].record.leader \notin {b, None}
                 /\ b \in image[b].record.replicas

\* What of etcd makes a difference to b: the ISR, and who of the replicas is
\* unfenced as what, is the leader's only.
Seen(b) ==
  LET rec == etcd.record
  IN  [record |-> IF rec.leader = b THEN rec
                  ELSE [NoRecord EXCEPT !.leader = rec.leader, !.le = rec.le,
                                        !.replicas = rec.replicas],
       unf |-> etcd.unf[b].epoch,
       peers |-> [f \in Brokers |-> IF rec.leader = b /\ f \in rec.replicas
                                    THEN etcd.unf[f].epoch ELSE 0],
       min |-> IF rec.leader = b THEN etcd.min ELSE MinInsync]

EpochBefore(l, o) == IF o = 0 THEN 0 ELSE l[o].e
\* The greatest epoch of l that is not above e, and where it ended.
EpochEnd(l, e) == LET n == Cardinality({i \in DOMAIN l : l[i].e <= e})
                  IN  [epoch |-> EpochBefore(l, n), end |-> n]
Cut(l, n) == SubSeq(l, 1, n)

OwnEnd(dur, l) == IF G("Durable") THEN dur ELSE Len(l)

HighWatermark(b, img, own, state, old) ==
  LET rec  == img.record
      need == rec.isr \cup (IF G("Entering") THEN state.entering ELSE {})
      end(f) == IF f = b THEN own ELSE state.ends[f]
      may  == /\ G("MinIsr") => Cardinality(rec.isr) >= Enough(img.min, rec)
              /\ G("NoElr") => rec.elr = {}
  IN  IF need # {} /\ may THEN Max2(old, Min({end(f) : f \in need})) ELSE old

\* b, by image img, leads with that state, log and durable end: what follows.
Raise(b, img, state, l, dur) ==
  LET h == HighWatermark(b, img, OwnEnd(dur, l), state, hw[b])
  IN  /\ hw' = [hw EXCEPT ![b] = h]
      /\ committed' = IF h > Len(committed)
                      THEN committed \o SubSeq(l, Len(committed) + 1, h)
                      ELSE committed
      /\ advanced' = IF h > hw[b]
                     THEN advanced \cup {<<img.record.le, b, broker[b].epoch>>}
                     ELSE advanced
      /\ UNCHANGED <<lost, unclean, least>>

\* A controller acts by images that show its key.
Controller(n) == [epoch |-> n, image |-> IF LateController THEN etcd ELSE {}, taken |-> [b \in Brokers |-> 0]]

Spend(what) == left[what] > 0 /\ left' = [left EXCEPT ![what] = @ - 1]

(***************************************************************************)
(* Beginning: everybody is up and in the ISR.                              *)
(***************************************************************************)
Init ==
  \E replicas \in SUBSET Brokers, leader \in Brokers :
    /\ Cardinality(replicas) = Factor
    /\ leader \in replicas
    /\ LET one == [epoch |-> 1, disk |-> 1, cache |-> 1, lost |-> FALSE]
       IN  etcd = [record |-> [NoRecord EXCEPT !.leader = leader, !.le = 1,
                               !.pe = 1, !.replicas = replicas, !.isr = replicas],
                   reg |-> [b \in Brokers |-> one],
                   unf |-> [b \in Brokers |-> one],
                   min |-> MinInsync]
    /\ key = 1
    /\ broker = [b \in Brokers |-> [up |-> TRUE, epoch |-> 1, disk |-> 1,
                                    cache |-> 1, ran |-> 1, last |-> 1]]
    /\ image = [b \in Brokers |-> Seen(b)]
    /\ log = [b \in Brokers |-> <<>>]
    /\ durable = [b \in Brokers |-> 0]
    /\ hw = [b \in Brokers |-> 0]
    /\ lead = [b \in Brokers |-> NotLeading]
    /\ orphans = {}
    /\ ctl = {Controller(1)}
    /\ requests = {}
    /\ answers = {}
    /\ committed = <<>>
    /\ advanced = {}
    /\ lost = [v \in 1..Appends |-> 0]
    /\ unclean = FALSE
    /\ least = Enough(MinInsync, etcd.record)
    /\ left = [append |-> Appends, crash |-> Crashes, expire |-> Expiries,
               disk |-> DiskLosses, cache |-> CacheLosses, shrink |-> Shrinks,
               timeout |-> Timeouts, duplicate |-> Duplicates,
               takeover |-> Takeovers, move |-> Moves, leaving |-> Leavings,
               reassign |-> Reassigns, min |-> MinChanges]

(***************************************************************************)
(* Brokers.                                                                *)
(***************************************************************************)

\* What a leader still knows once it has a newer record of its own epoch.
Adopted(state, rec, pe) ==
  IF rec.pe <= pe THEN state
  ELSE [state EXCEPT
          !.ends = [f \in Brokers |-> IF f \in rec.replicas THEN @[f] ELSE Unknown],
          !.seen = [f \in Brokers |-> IF f \in rec.replicas THEN @[f] ELSE 0],
          !.entering = {}, !.unsure = FALSE, !.pending = NoChange]

LearnedImage(b, img) ==
  LET new  == img.record
      old  == image[b].record
      here == b \in new.replicas \/ ~Owns(b, img, broker[b].epoch)
      leads == Leads(b, img, broker[b].epoch)
      stays == leads /\ IsLeader(b) /\ old.le = new.le
      \* Only to show why it is wrong: Kafka before KIP-101.
      cut  == ~G("Divergence") /\ ~leads /\ new.le # old.le
      l    == IF ~here THEN <<>> ELSE IF cut THEN Cut(log[b], hw[b]) ELSE log[b]
      dur  == Min2(durable[b], Len(l))
      state == IF ~leads THEN NotLeading
               ELSE IF stays THEN Adopted(lead[b], new, old.pe)
               ELSE [NotLeading EXCEPT !.begin = Len(l)]
  IN  /\ log' = [log EXCEPT ![b] = l]
      /\ durable' = [durable EXCEPT ![b] = dur]
      /\ lead' = [lead EXCEPT ![b] = state]
      /\ IF leads
         THEN Raise(b, img, state, l, dur)
         ELSE /\ hw' = [hw EXCEPT ![b] = IF here THEN @ ELSE 0]
              /\ UNCHANGED ghosts

\* b's image catches up. The changes between are skipped. (A leader may have the
\* record by etcd's answer to its own write, before the rest.)
Learned(b) ==
  /\ broker[b].up
  /\ Seen(b) # image[b]
  /\ LET new == Seen(b)
         old == image[b]
         early == [new EXCEPT !.peers = old.peers, !.min = old.min]
     IN  \E img \in {new} \cup IF IsLeader(b) /\ lead[b].pending.kind # "none"
                               THEN {early} \ {old} ELSE {} :
           /\ image' = [image EXCEPT ![b] = img]
           /\ LearnedImage(b, img)
  /\ UNCHANGED <<etcd, key, broker, orphans, ctl, net, left>>

\* A producer's record.
Appended(b) ==
  /\ IsLeader(b)
  /\ Spend("append")
  /\ LET l == Append(log[b], [e |-> image[b].record.le, v |-> left.append])
         dur == IF Policy = "fsync" THEN durable[b] ELSE Len(l)
     IN  /\ log' = [log EXCEPT ![b] = l]
         /\ durable' = [durable EXCEPT ![b] = dur]
         /\ Raise(b, image[b], lead[b], l, dur)
  /\ UNCHANGED <<etcd, key, broker, image, lead, orphans, ctl, net>>

\* What is in b's log is on its disk now.
Synced(b) ==
  /\ broker[b].up
  /\ durable[b] < Len(log[b])
  /\ durable' = [durable EXCEPT ![b] = Len(log[b])]
  /\ IF IsLeader(b)
     THEN Raise(b, image[b], lead[b], log[b], Len(log[b]))
     ELSE UNCHANGED <<hw, ghosts>>
  /\ UNCHANGED <<etcd, key, broker, image, log, lead, orphans, ctl, net, left>>

(***************************************************************************)
(* Fetching.                                                               *)
(***************************************************************************)
Ask(f) ==
  LET off == OwnEnd(durable[f], log[f])
  IN  [from |-> f, to |-> image[f].record.leader, le |-> image[f].record.le,
       be |-> broker[f].epoch, off |-> off, last |-> EpochBefore(log[f], off)]

IsAsked(f, a) == /\ a.to = f
                 /\ a.le = image[f].record.le
                 /\ a.be = broker[f].epoch
                 /\ a.off = Len(log[f])
                 /\ a.last = EpochBefore(log[f], a.off)

\* f asks from its durable end: the acknowledgement of all before.
Asked(f) ==
  /\ IsFollower(f)
  /\ OwnEnd(durable[f], log[f]) = Len(log[f])
  /\ ~\E a \in answers : IsAsked(f, a)
  /\ Ask(f) \notin requests
  /\ LET before == {m \in requests : m.from = f}
     IN  IF Cardinality(before) < Fetches
         THEN requests' = requests \cup {Ask(f)}
         ELSE \E m \in before :   \* an earlier one is lost
                requests' = (requests \ {m}) \cup {Ask(f)}
  /\ UNCHANGED <<etcd, key, broker, image, log, durable, hw, lead, orphans, ctl,
                 answers, ghosts, left>>

Diverges(l, m) ==
  IF G("Divergence")
  THEN LET x == EpochEnd(l, m.last)
       IN  m.off > 0 /\ (x.epoch # m.last \/ x.end < m.off)
  ELSE m.off > Len(l)

Fetched(b, m) ==
  /\ m \in requests
  /\ m.to = b
  /\ IsLeader(b)
  /\ m.from \in image[b].record.replicas
  /\ G("LeaderEpoch") => m.le = image[b].record.le
  /\ G("FetchEpoch") => m.be = image[b].peers[m.from]
  /\ LET differs == Diverges(log[b], m)
         takes == ~differs \/ ~G("History")
         x == IF G("Divergence") THEN EpochEnd(log[b], m.last)
                                 ELSE [epoch |-> image[b].record.le, end |-> Len(log[b])]
         state == [lead[b] EXCEPT
                     !.seen[m.from] = IF takes THEN m.be ELSE @,
                     !.ends[m.from] = IF takes THEN m.off ELSE @]
         a == IF differs
              THEN [to |-> m.from, kind |-> "truncate", le |-> m.le, be |-> m.be,
                    off |-> m.off, last |-> m.last, epoch |-> x.epoch, end |-> x.end]
              ELSE [to |-> m.from, kind |-> "records", le |-> m.le, be |-> m.be,
                    off |-> m.off, last |-> m.last, records |-> SubSeq(log[b], m.off + 1, Len(log[b])),
                    hw |-> hw'[b]]
         \* An answer that tells the follower nothing is as good as none.
         void == a.kind = "records" /\ a.records = <<>> /\ a.hw <= hw[m.from]
         before == {y \in answers : y.to = m.from}
     IN  /\ lead' = [lead EXCEPT ![b] = state]
         /\ Raise(b, image[b], state, log[b], durable[b])
         /\ IF void THEN UNCHANGED answers
            ELSE IF Cardinality(before) < Answers THEN answers' = answers \cup {a}
            ELSE \E y \in before :   \* an earlier one is lost
                   answers' = (answers \ {y}) \cup {a}
  /\ \/ requests' = requests \ {m} /\ UNCHANGED left
     \/ Spend("duplicate") /\ UNCHANGED requests
  /\ UNCHANGED <<etcd, key, broker, image, log, durable, orphans, ctl>>

Answered(f, a) ==
  LET t == Min2(a.end, EpochEnd(log[f], a.epoch).end)
      n == Len(log[f])
  IN
  /\ a \in answers
  /\ a.to = f
  /\ IsFollower(f)
  /\ IF G("Answer") THEN IsAsked(f, a) ELSE a.kind = "records" => a.off = n
  /\ answers' = answers \ {a}
  /\ \/ /\ a.kind = "records"
        /\ log' = [log EXCEPT ![f] = @ \o a.records]
        /\ durable' = [durable EXCEPT ![f] =
                         IF LazySync /\ Policy = "fsync" THEN @ ELSE n + Len(a.records)]
        /\ hw' = [hw EXCEPT ![f] = Max2(@, Min2(a.hw, n + Len(a.records)))]
     \/ /\ a.kind = "truncate"
        /\ log' = [log EXCEPT ![f] = Cut(@, t)]
        /\ durable' = [durable EXCEPT ![f] = Min2(@, t)]
        \* A cut below the high watermark shows in Agreement.
        /\ hw' = [hw EXCEPT ![f] = IF unclean THEN Min2(@, t) ELSE @]
  /\ UNCHANGED <<etcd, key, broker, image, lead, orphans, ctl, requests, ghosts, left>>

(***************************************************************************)
(* The leader changes the ISR. Who enters counts for the high watermark    *)
(* from the wish on, until the record has another revision or every        *)
(* attempt is known to have failed.                                        *)
(***************************************************************************)
Ready(b, f) ==
  /\ f \in image[b].record.replicas \ image[b].record.isr
  /\ lead[b].ends[f] >= hw[b]
  /\ lead[b].ends[f] # Unknown
  /\ G("Begin") => lead[b].ends[f] >= lead[b].begin

\* S leave, J (one at most) enter. Nothing may be wanted but that the ELR goes,
\* or that the record is written anew so that no earlier attempt can succeed.
Wanted(b, S, J) ==
  LET rec == image[b].record
      new == WithIsr(rec, (rec.isr \ S) \cup J, image[b].min)
  IN
  /\ IsLeader(b)
  /\ lead[b].pending.kind = "none"
  /\ S \subseteq rec.isr \ {b}
  /\ Cardinality(J) <= 1
  /\ \A f \in J : Ready(b, f)
  /\ new # rec \/ lead[b].unsure
  /\ lead' = [lead EXCEPT
       ![b].entering = @ \cup J,
       ![b].pending = [kind |-> "open", by |-> b, be |-> broker[b].epoch, pe |-> rec.pe,
                       isr |-> new.isr, elr |-> new.elr, joins |-> J,
                       seen |-> [f \in J |-> lead[b].seen[f]],
                       \* What is written when no revision is compared.
                       base |-> IF G("Revision") THEN NoRecord ELSE rec]]
  /\ IF S = {} THEN UNCHANGED left ELSE Spend("shrink")
  /\ UNCHANGED <<etcd, key, broker, image, log, durable, hw, orphans, ctl, net, ghosts>>

\* etcd's transaction: what is compared, and what is then written.
Compares(p) ==
  /\ G("Revision") => etcd.record.pe = p.pe
  /\ G("OwnRegistration") => etcd.reg[p.by].epoch = p.be
  /\ G("EntryEpoch") => \A f \in p.joins : /\ etcd.reg[f].epoch = p.seen[f]
                                           /\ etcd.unf[f].epoch = p.seen[f]
\* Changes that can no longer succeed are not worth a state.
Open(b) == {p \in {lead[b].pending} :
              p.kind = "open" /\ (G("Revision") => p.pe = etcd.record.pe)}
Alive(changes) == {p \in changes : G("Revision") => etcd'.record.pe = p.pe}
Put(rec) == /\ etcd' = [etcd EXCEPT !.record = [rec EXCEPT !.pe = etcd.record.pe + 1]]
            /\ orphans' = Alive(orphans)
PutChange(p) ==
  LET base == IF G("Revision") THEN etcd.record ELSE p.base
  IN  etcd' = [etcd EXCEPT !.record = [base EXCEPT !.isr = p.isr, !.elr = p.elr,
                                                  !.pe = etcd.record.pe + 1]]

\* Written; the leader will learn it.
Written(b) ==
  /\ broker[b].up
  /\ lead[b].pending.kind = "open"
  /\ Compares(lead[b].pending)
  /\ PutChange(lead[b].pending)
  /\ orphans' = Alive(orphans)
  /\ lead' = [lead EXCEPT ![b].pending.kind = "sent"]
  /\ UNCHANGED <<key, broker, image, log, durable, hw, ctl, net, ghosts, left>>

\* Not written, though the record is the one that was read.
Refused(b) ==
  /\ broker[b].up
  /\ lead[b].pending.kind = "open"
  /\ ~Compares(lead[b].pending)
  /\ etcd.record.pe = lead[b].pending.pe
  /\ lead' = [lead EXCEPT ![b].pending = NoChange,
                          ![b].entering = IF lead[b].unsure THEN @ ELSE {}]
  /\ UNCHANGED <<etcd, key, broker, image, log, durable, hw, orphans, ctl, net, ghosts, left>>

\* The leader waits no longer: written or not, or not yet.
Unsure(b) ==
  /\ broker[b].up
  /\ lead[b].pending.kind # "none"
  /\ Spend("timeout")
  /\ orphans' = orphans \cup Open(b)
  /\ lead' = [lead EXCEPT ![b].pending = NoChange,
                          ![b].entering = IF G("Pending") THEN @ ELSE {},
                          ![b].unsure = G("Pending")]
  /\ UNCHANGED <<etcd, key, broker, image, log, durable, hw, ctl, net, ghosts>>

WrittenLate ==
  \E p \in orphans :
    /\ Compares(p)
    /\ PutChange(p)
    /\ orphans' = Alive(orphans \ {p})
    /\ UNCHANGED <<key, broker, image, log, durable, hw, lead, ctl, net, ghosts, left>>

(***************************************************************************)
(* The controller.                                                         *)
(***************************************************************************)
Image(c) == IF LateController THEN c.image ELSE etcd
IsController(c) == /\ c \in ctl
                   /\ G("ControllerKey") => key = c.epoch

LearnedAll(c) ==
  /\ c \in ctl
  /\ LateController /\ c.image # etcd
  /\ ctl' = (ctl \ {c}) \cup {[c EXCEPT !.image = etcd]}
  /\ UNCHANGED <<etcd, key, broker, image, log, durable, hw, lead, orphans, net,
                 ghosts, left>>

Write(c, rec) ==
  /\ G("ElectRevision") => Image(c).record.pe = etcd.record.pe
  /\ Put(rec)

\* The records that may follow from who is eligible, each with whether that is
\* an unclean election. kept is the record less who has lost what it had;
\* leaving want to lead nothing; with anew the leader's epoch ends, too. Any
\* order of the replicas is the preferred one here.
Settled(kept, rec, can, leaving, min, anew) ==
  LET stay == can \ leaving
      who == CASE rec.leader \in kept.isr \cap stay -> {rec.leader}
               [] OTHER ->
                  CASE kept.isr \cap stay # {} -> kept.isr \cap stay
                    [] kept.isr \cap stay = {} /\ kept.elr \cap stay # {} -> kept.elr \cap stay
                    [] OTHER ->
                       CASE kept.isr \cap can # {} -> kept.isr \cap can
                         [] kept.isr \cap can = {} /\ kept.elr \cap can # {} -> kept.elr \cap can
                         [] OTHER -> IF Unclean THEN rec.replicas \cap can ELSE {}
      clean(n) == n \in kept.isr \cup kept.elr
      isr(n) == IF clean(n) THEN (kept.isr \cap stay) \cup {n} ELSE {n}
      at(n, r) == IF n = rec.leader /\ ~anew THEN r
                  ELSE [r EXCEPT !.leader = n, !.le = @ + 1]
  IN  IF who = {}
      THEN {[record |-> at(None, WithIsr(kept, {}, min)), unclean |-> FALSE]}
      ELSE {[record |-> at(n, IF clean(n) THEN WithIsr(kept, isr(n), min)
                              ELSE [kept EXCEPT !.isr = {n}, !.elr = {}]),
             unclean |-> ~clean(n)] : n \in who}

Elect(c, leaving) ==
  LET img == Image(c)
      rec == img.record
  IN
  /\ IsController(c)
  /\ IF leaving = {} THEN UNCHANGED left ELSE Spend("leaving")
  /\ \E r \in Settled(rec, rec, Eligible(img), leaving, img.min, FALSE) :
       /\ r.record # rec
       /\ Write(c, r.record)
       /\ unclean' = (unclean \/ r.unclean)
  /\ UNCHANGED <<key, broker, image, log, durable, hw, lead, ctl, net,
                 committed, advanced, lost, least>>

\* Leadership goes to another of the ISR, though the leader is well.
Preferred(c) ==
  LET rec == Image(c).record
  IN
  /\ IsController(c)
  /\ Spend("move")
  /\ rec.leader # None
  /\ \E n \in (rec.isr \cap Eligible(Image(c))) \ {rec.leader} :
       Write(c, [rec EXCEPT !.leader = n, !.le = @ + 1])
  /\ UNCHANGED <<key, broker, image, log, durable, hw, lead, ctl, net, ghosts>>

\* b lacks something, and of all that it lacks too many copies were lost.
Lacks(b) ==
  LET gone == {i \in 1..Len(committed) : i > Len(log[b])}
  IN  gone # {} /\ \A i \in gone : lost[committed[i].v] >= least

\* b has a registration that is not taken in: first what it means for the
\* record ...
TakenIn(c, b) ==
  LET img  == Image(c)
      rec  == img.record
      reg  == img.reg[b]
      unf  == img.unf[b]
      disk == reg.disk # unf.disk
      cache == /\ Policy = "replicated"
               /\ IF G("CacheId") THEN reg.cache # unf.cache ELSE reg.lost
      \* The last one that may be elected stays: the others have lost theirs.
      last == ~disk /\ cache /\ rec.isr \cup rec.elr = {b}
      gone == IF disk \/ (cache /\ ~last) THEN {b} ELSE {}
      kept == [rec EXCEPT !.isr = IF G("LostIsr") THEN @ \ gone ELSE @,
                          !.elr = IF G("LostElr") THEN @ \ gone ELSE @]
  IN
  /\ IsController(c)
  /\ b \in rec.replicas
  /\ reg.epoch \notin {0, unf.epoch, c.taken[b]}
  /\ ctl' = (ctl \ {c}) \cup {[c EXCEPT !.taken[b] = reg.epoch]}
  /\ \E r \in Settled(kept, rec, Eligible(img) \cup {b}, {}, img.min,
                      rec.leader = b /\ G("NewEpoch")) :
       /\ IF r.record = rec THEN UNCHANGED <<etcd, orphans>> ELSE Write(c, r.record)
       /\ unclean' = (unclean \/ r.unclean \/ (last /\ Lacks(b)))
  /\ UNCHANGED <<key, broker, image, log, durable, hw, lead, net,
                 committed, advanced, lost, least, left>>

\* ... then that it is known.
Unfenced(c, b) ==
  LET reg == Image(c).reg[b]
  IN
  /\ IsController(c)
  /\ reg.epoch \notin {0, Image(c).unf[b].epoch}
  /\ G("RecordsFirst") => \/ c.taken[b] = reg.epoch
                          \/ b \notin Image(c).record.replicas
  /\ G("UnfenceEpoch") => etcd.reg[b].epoch = reg.epoch
  /\ etcd.unf[b] # reg
  /\ etcd' = [etcd EXCEPT !.unf[b] = reg]
  /\ UNCHANGED <<key, broker, image, log, durable, hw, lead, orphans, ctl, net,
                 ghosts, left>>

\* Another set of replicas is wanted, be it the one of before.
Reassign(c, target) ==
  LET rec == Image(c).record
      original == rec.replicas \ rec.adding
      all == rec.replicas \cup target
      new == [rec EXCEPT !.replicas = all, !.adding = target \ original,
                         !.removing = all \ target]
  IN
  /\ IsController(c)
  /\ Spend("reassign")
  /\ target # {} /\ new # rec
  /\ Write(c, new)
  /\ least' = Min2(least, Enough(Image(c).min, new))
  /\ UNCHANGED <<key, broker, image, log, durable, hw, lead, ctl, net,
                 committed, advanced, lost, unclean>>

\* The reassignment is complete.
Progress(c) ==
  LET img == Image(c)
      rec == img.record
      isr == rec.isr \ rec.removing
      new == [rec EXCEPT !.replicas = @ \ rec.removing, !.isr = isr, !.elr = {},
                         !.adding = {}, !.removing = {}]
      who == IF rec.leader \in isr THEN {rec.leader} ELSE isr \cap Eligible(img)
  IN
  /\ IsController(c)
  /\ rec.adding \cup rec.removing # {}
  /\ rec.adding \subseteq isr
  /\ G("RemainingIsr") => Cardinality(isr) >= Enough(img.min, new)
  /\ \E n \in who :
       Write(c, [new EXCEPT !.leader = n,
                   !.le = IF n # rec.leader \/ (rec.removing # {} /\ G("RemovalEpoch"))
                          THEN @ + 1 ELSE @])
  /\ least' = Min2(least, Enough(img.min, new))
  /\ UNCHANGED <<key, broker, image, log, durable, hw, lead, ctl, net,
                 committed, advanced, lost, unclean, left>>

\* Somebody else has the controller key. Whoever had it may not know.
TakenOver ==
  /\ Spend("takeover")
  /\ key' = key + 1
  /\ ctl' = {Controller(key + 1)} \cup IF G("ControllerKey") THEN {} ELSE ctl
  /\ UNCHANGED <<etcd, broker, image, log, durable, hw, lead, orphans, net, ghosts>>

ChangeMinInsync(m) ==
  /\ m # etcd.min
  /\ Spend("min")
  /\ etcd' = [etcd EXCEPT !.min = m]
  /\ least' = Min2(least, Enough(m, etcd.record))
  /\ UNCHANGED <<key, broker, image, log, durable, hw, lead, orphans, ctl, net,
                 committed, advanced, lost, unclean>>

(***************************************************************************)
(* What goes wrong, and the way back.                                      *)
(***************************************************************************)

\* b's lease runs out, or is revoked. Its process may not know.
Expire(b) ==
  /\ etcd.reg[b].epoch # 0
  /\ IF broker[b].up THEN Spend("expire") ELSE UNCHANGED left
  /\ etcd' = [etcd EXCEPT !.reg[b] = NoReg]
  /\ UNCHANGED <<key, broker, image, log, durable, hw, lead, orphans, ctl, net, ghosts>>

\* The process stops, and whatever was not durable may be gone. With fsync
\* that is all that a power loss does, too.
Crash(b) ==
  /\ broker[b].up
  /\ Spend("crash")
  /\ broker' = [broker EXCEPT ![b].up = FALSE, ![b].epoch = 0]
  /\ image' = [image EXCEPT ![b] = NoImage]
  /\ \E n \in durable[b]..Len(log[b]) :
       /\ log' = [log EXCEPT ![b] = Cut(@, n)]
       /\ durable' = [durable EXCEPT ![b] = n]
       /\ \E h \in {0} \cup IF Checkpoint THEN {Min2(hw[b], n)} ELSE {} :
            hw' = [hw EXCEPT ![b] = h]
  /\ lead' = [lead EXCEPT ![b] = NotLeading]
  /\ orphans' = orphans \cup Open(b)
  /\ answers' = {a \in answers : a.to # b}
  /\ UNCHANGED <<etcd, key, ctl, requests, ghosts>>

Lost(b) == [v \in DOMAIN lost |->
              lost[v] + Cardinality({i \in DOMAIN log[b] : log[b][i].v = v})]

\* Whoever is down may lose its disk ...
LoseDisk(b) ==
  /\ ~broker[b].up
  /\ Spend("disk")
  /\ broker' = [broker EXCEPT ![b].disk = @ + 1]
  /\ log' = [log EXCEPT ![b] = <<>>]
  /\ durable' = [durable EXCEPT ![b] = 0]
  /\ hw' = [hw EXCEPT ![b] = 0]
  /\ lost' = Lost(b)
  /\ UNCHANGED <<etcd, key, image, lead, orphans, ctl, net, committed, advanced,
                 unclean, least>>

\* ... or what was in its page cache only. Nobody knows how much that was.
LoseCache(b) ==
  /\ Policy = "replicated"
  /\ ~broker[b].up
  /\ Spend("cache")
  /\ broker' = [broker EXCEPT ![b].cache = @ + 1]
  /\ \E n \in 0..Len(log[b]) :
       /\ log' = [log EXCEPT ![b] = Cut(@, n)]
       /\ durable' = [durable EXCEPT ![b] = n]
       /\ hw' = [hw EXCEPT ![b] = Min2(@, n)]
  /\ lost' = Lost(b)
  /\ UNCHANGED <<etcd, key, image, lead, orphans, ctl, net, committed, advanced,
                 unclean, least>>

\* A process starts and registers; so does one whose registration is gone.
\* Its epoch is the revision at which that was made: 1, 2, ... here.
Register(b) ==
  LET n == broker[b].last + 1
      reg == [epoch |-> n, disk |-> broker[b].disk, cache |-> broker[b].cache,
              lost |-> ~G("CacheId") /\ broker[b].cache # broker[b].ran]
  IN
  /\ ~broker[b].up \/ etcd.reg[b].epoch = 0
  /\ broker' = [broker EXCEPT ![b].up = TRUE, ![b].epoch = n, ![b].last = n,
                              ![b].ran = broker[b].cache]
  /\ etcd' = [etcd EXCEPT !.reg[b] = reg]
  /\ lead' = [lead EXCEPT ![b] = NotLeading]
  /\ orphans' = orphans \cup Open(b)
  /\ UNCHANGED <<key, image, log, durable, hw, ctl, net, ghosts, left>>

-----------------------------------------------------------------------------
Next ==
  \/ \E b \in Brokers :
       \/ Learned(b) \/ Appended(b) \/ Synced(b)
       \/ Asked(b)
       \/ \E a \in answers : Answered(b, a)
       \/ \E m \in requests : Fetched(b, m)
       \/ \E S, J \in SUBSET Brokers : Wanted(b, S, J)
       \/ Written(b) \/ Refused(b) \/ Unsure(b)
       \/ Expire(b) \/ Crash(b) \/ LoseDisk(b) \/ LoseCache(b) \/ Register(b)
  \/ \E c \in ctl :
       \/ LearnedAll(c)
       \/ \E leaving \in SUBSET Brokers : Elect(c, leaving)
       \/ Preferred(c) \/ Progress(c)
       \/ \E b \in Brokers : TakenIn(c, b) \/ Unfenced(c, b)
       \/ \E target \in SUBSET Brokers : Reassign(c, target)
  \/ TakenOver
  \/ WrittenLate
  \/ \E m \in 1..Cardinality(Brokers) : ChangeMinInsync(m)

Spec == Init /\ [][Next]_vars

\* Whoever lives goes on.
Fair == Spec
  /\ WF_vars(\E c \in ctl : LearnedAll(c))
  /\ WF_vars(\E c \in ctl : Elect(c, {}))
  /\ WF_vars(\E c \in ctl : Progress(c))
  /\ WF_vars(WrittenLate)
  /\ \A b \in Brokers :
       /\ WF_vars(Learned(b)) /\ WF_vars(Synced(b))
       /\ WF_vars(Asked(b)) /\ WF_vars(\E a \in answers : Answered(b, a))
       /\ \A f \in Brokers :
            /\ WF_vars(\E m \in requests : m.from = f /\ Fetched(b, m))
            /\ WF_vars(Wanted(b, {}, {f}))
       /\ WF_vars(Wanted(b, {}, {})) /\ WF_vars(Written(b)) /\ WF_vars(Refused(b))
       /\ WF_vars(\E c \in ctl : TakenIn(c, b))
       /\ WF_vars(\E c \in ctl : Unfenced(c, b))
       /\ WF_vars(Register(b))

Symmetry == Permutations(Brokers)

(***************************************************************************)
(* What must hold.                                                         *)
(***************************************************************************)
TypeOK ==
  /\ etcd.record.leader \in Brokers \cup {None}
  /\ etcd.record.isr \subseteq etcd.record.replicas
  /\ etcd.record.elr \subseteq etcd.record.replicas
  /\ etcd.record.isr \cap etcd.record.elr = {}
  /\ etcd.record.leader # None => etcd.record.leader \in etcd.record.isr
  /\ etcd.record.adding \cup etcd.record.removing \subseteq etcd.record.replicas
  /\ \A b \in Brokers : /\ durable[b] \in 0..Len(log[b])
                        /\ \A i \in 1..Len(log[b]) - 1 : log[b][i].e <= log[b][i + 1].e

\* b holds the bytes that its place in an ISR speaks of.
Intact(b) == /\ etcd.unf[b].disk = broker[b].disk
             /\ Policy = "replicated" => etcd.unf[b].cache = broker[b].cache
Complete(b) == /\ Len(log[b]) >= Len(committed)
               /\ Cut(log[b], Len(committed)) = committed
Electable == {b \in etcd.record.isr \cup etcd.record.elr : Intact(b)}

\* Invariant 1: whoever may be elected has all that was ever acknowledged ...
Completeness == unclean \/ \A b \in Electable : Complete(b)
\* ... there are min.insync.replicas of them, less those whose copies were lost ...
Survival ==
  unclean \/ \A i \in 1..Len(committed) :
               Cardinality(Electable) + lost[committed[i].v] >= least
\* ... and who leads now has it.
LeaderComplete ==
  unclean \/ \A b \in Brokers :
    IsLeader(b) /\ image[b].record.le = etcd.record.le => Complete(b)

\* Invariant 2: below a high watermark every replica has the same records, for
\* ever; nothing below one was cut off.
Agreement ==
  unclean \/ \A b \in Brokers :
    /\ hw[b] <= Len(log[b])
    /\ hw[b] <= Len(committed)
    /\ \A i \in 1..hw[b] : log[b][i] = committed[i]
\* An epoch and an offset name one record.
LogMatching ==
  \A b, c \in Brokers : \A i \in 1..Min2(Len(log[b]), Len(log[c])) :
    log[b][i].e = log[c][i].e => log[b][i].v = log[c][i].v

\* Invariant 4: one process at most raises the high watermark in an epoch.
OneLeader == \A x, y \in advanced : x[1] = y[1] => x = y

\* A leader's high watermark never goes down while it leads.
Monotonic ==
  [][\A b \in Brokers :
       IsLeader(b) /\ IsLeader(b)' /\ image[b].record.le = image'[b].record.le
         => hw'[b] >= hw[b]]_vars

\* Once the faults are over (each of them is bounded) somebody leads, and all
\* that was acknowledged can be read again.
Readable ==
  /\ etcd.record.leader # None
  /\ IsLeader(etcd.record.leader)
  /\ image[etcd.record.leader].record.le = etcd.record.le
  /\ hw[etcd.record.leader] >= Len(committed)
Recovers == <>[](Readable \/ Electable = {})
Reassigned == <>[](etcd.record.adding \cup etcd.record.removing = {} \/ Electable = {})
=============================================================================
