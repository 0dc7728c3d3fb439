package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/broker/brokerconfig"
	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/controller"
	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/broker/fetcher"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering"
)

// openers is how many partitions are opened at once: recovery reads disks.
const openers = 8

// closers is how many partitions are closed or deleted at once: that waits
// for syncs, many of which one commit of the file system's journal answers.
const closers = 64

// A partition that did not open is tried again after firstRetry, then after
// twice as long, up to lastRetry: each try may have to scan a segment.
const (
	firstRetry = 5 * time.Second
	lastRetry  = 5 * time.Minute
)

var (
	openFailures  = metrics.NewCounter("firn_broker_partition_open_failures_total") // that a retry fails, too, does not count
	notOpen       = metrics.NewGauge("firn_broker_partitions_not_open", nil)        // at present
	partsReopened = metrics.NewCounter("firn_broker_partitions_reopened_total")
)

// topics keeps the open partitions equal to what the metastore's image says
// this broker has replicas of, and tells each what it is: leader or follower. apply is called from one goroutine; Get from any.
type topics struct {
	dir    string // …/logs
	node   record.BrokerID
	log    *slog.Logger
	tier   *tiering.Manager
	groups *groups
	fail   func(error)   // ends the broker: a disk failed
	age    time.Duration // partition.Deps.TieredRollAge

	journal   *journal.Journal
	powerLost bool
	epoch     func() int64 // this broker's epoch, 0 before it is registered
	fetcher   *fetcher.Fetcher
	isrWanted func(*partition.Partition)

	cleaner *partition.Cleaner // compacts what is open, while somebody runs it

	open atomic.Pointer[map[string]*openTopic] // by name; replaced whole, never changed

	applying chan struct{} // one place: apply, reopen, stop and close take turns, and guard what follows
	stopped  bool          // nothing is applied any more
	configs  *brokerconfig.Values
	image    *metastore.Image // applied last, as configs
	acting   bool             // by that image this broker is registered and taken in: it may lead and follow
	acted    chan struct{}    // closed when that was so for the first time
	retry    *time.Timer      // of the next reopen; nil: every partition is open
	pause    time.Duration    // that retry waits or waited, 0 before the first

	mu      sync.Mutex // guards applied and waiters
	applied int64      // the image revision that open shows
	waiters map[chan struct{}]int64
}

// openTopic is a topic of which this broker has partitions.
type openTopic struct {
	id         record.TopicID
	revision   int64                  // of the metadata that was applied
	config     topicconfig.Topic      // that partitions were last told
	partitions []*partition.Partition // by index; nil: not here, or it failed to open
	failed     []error                // by index: why it did not open
	roles      []assignment           // by index: what was last said to the partition
}

// assignment is what of a partition record decides what a replica does, and
// the record's revision.
type assignment struct {
	acting   bool
	leader   record.BrokerID
	epoch    record.Epoch
	revision int64
	unfenced int64 // sum of the replicas' unfenced epochs: when one changes, it grows
}

// notOpen is how many partitions should be open and are not.
func (ot *openTopic) notOpen() (n int) {
	for _, err := range ot.failed {
		if err != nil {
			n++
		}
	}
	return n
}

func newTopics(dir string, node record.BrokerID, log *slog.Logger, tier *tiering.Manager, g *groups, fail func(error), age time.Duration) *topics {
	t := &topics{dir: dir, node: node, log: log, tier: tier, groups: g, fail: fail, age: age, waiters: map[chan struct{}]int64{}, applying: make(chan struct{}, 1), acted: make(chan struct{})}
	t.cleaner = partition.NewCleaner(partition.CleanerConfig{}, log, nil, t.all)
	t.open.Store(&map[string]*openTopic{})
	return t
}

// Get gives an open partition, nil when this broker does not have it.
func (t *topics) Get(topic string, p record.PartitionID) *partition.Partition {
	ot := (*t.open.Load())[topic]
	if ot == nil || p < 0 || int(p) >= len(ot.partitions) {
		return nil
	}
	return ot.partitions[p]
}

// OpenError says why a partition that should be open did not open, nil if
// there is no such partition.
func (t *topics) OpenError(topic string, p record.PartitionID) error {
	ot := (*t.open.Load())[topic]
	if ot == nil || p < 0 || int(p) >= len(ot.failed) {
		return nil
	}
	return ot.failed[p]
}

// all calls f with every open partition.
func (t *topics) all(f func(*partition.Partition)) {
	for _, ot := range *t.open.Load() {
		for _, p := range ot.partitions {
			if p != nil {
				f(p)
			}
		}
	}
}

// AwaitApplied returns once the partitions show the metadata of revision.
func (t *topics) AwaitApplied(ctx context.Context, revision int64) error {
	t.mu.Lock()
	if t.applied >= revision {
		t.mu.Unlock()
		return nil
	}
	ch := make(chan struct{})
	t.waiters[ch] = revision
	t.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		t.mu.Lock()
		delete(t.waiters, ch)
		t.mu.Unlock()
		return ctx.Err()
	}
}

// apply opens, changes and deletes partitions until they are as img says, with
// the defaults that v has for topics.
func (t *topics) apply(img *metastore.Image, v *brokerconfig.Values) {
	t.applying <- struct{}{}
	defer func() { <-t.applying }()
	if !t.stopped {
		t.change(img, v, false)
	}
}

// reopen tries those partitions again that did not open.
func (t *topics) reopen() {
	t.applying <- struct{}{}
	defer func() { <-t.applying }()
	if !t.stopped {
		t.retry = nil
		t.change(t.image, t.configs, true)
	}
}

// change does the work of apply; again says to try what did not open.
func (t *topics) change(img *metastore.Image, v *brokerconfig.Values, again bool) {
	acting := img.Eligible(t.node) && img.Brokers[t.node].Epoch == t.epoch()
	same := t.configs != nil && t.configs.SameForTopics(v) && acting == t.acting && maps.Equal(img.Unfenced, t.image.Unfenced)
	t.configs, t.image, t.acting = v, img, acting
	old := *t.open.Load()
	next := make(map[string]*openTopic, len(img.Topics))
	var work roleWork
	for name, mt := range img.Topics {
		was := old[name]
		if was != nil && was.id == mt.ID && was.revision == mt.Revision && same && !(again && was.notOpen() > 0) {
			next[name] = was
			continue
		}
		if was != nil && was.id != mt.ID {
			t.delete(name, was)
			was = nil
		}
		next[name] = t.applyTopic(mt, was, &work)
	}
	work.run()
	t.open.Store(&next)
	for name, was := range old {
		if next[name] == nil {
			t.delete(name, was)
		}
	}
	t.groups.apply(next[offsetsTopic])
	t.retryLater(next)
	t.early()
	if acting {
		select {
		case <-t.acted:
		default:
			close(t.acted)
		}
	}
	t.mu.Lock()
	t.applied = max(t.applied, img.Revision)
	for ch, rev := range t.waiters {
		if rev <= t.applied {
			close(ch)
			delete(t.waiters, ch)
		}
	}
	t.mu.Unlock()
}

// lookAgain is when an image is applied again that knew of this broker's
// registration before the broker itself did.
const lookAgain = 20 * time.Millisecond

// early applies the image again, soon, if it is about a registration of this
// broker that it has not heard of yet: there may be no further image.
func (t *topics) early() {
	if t.acting || !t.image.Eligible(t.node) {
		return
	}
	time.AfterFunc(lookAgain, func() {
		t.applying <- struct{}{}
		defer func() { <-t.applying }()
		if !t.stopped && !t.acting {
			t.change(t.image, t.configs, false)
		}
	})
}

// roleWork is what a new image makes partitions do. Leaders come first, since
// clients wait for them; to follow may wait for the disk, as closing does, where
// many waits are answered together; to open reads. What may be left in the
// object store of partitions that are not tiered comes last.
type roleWork struct{ lead, follow, open, attach []func() }

func (w *roleWork) run() {
	for _, part := range []struct {
		work   []func()
		atOnce int
	}{{w.lead, closers}, {w.follow, closers}, {w.open, openers}, {w.attach, closers}} {
		var group errgroup.Group
		group.SetLimit(part.atOnce)
		for _, f := range part.work {
			group.Go(func() error { f(); return nil })
		}
		_ = group.Wait() // each reports its own failure
	}
}

// retryLater sees to it that what is not open is tried again.
func (t *topics) retryLater(open map[string]*openTopic) {
	n := 0
	for _, ot := range open {
		n += ot.notOpen()
	}
	notOpen.Set(float64(n))
	switch {
	case n == 0:
		t.pause = 0
	case t.retry == nil:
		t.pause = min(max(2*t.pause, firstRetry), lastRetry)
		t.retry = time.AfterFunc(t.pause, t.reopen)
	}
}

// applyTopic gives the topic as mt says, reusing the partitions of was.
func (t *topics) applyTopic(mt *metastore.Topic, was *openTopic, work *roleWork) *openTopic {
	n := len(mt.Partitions)
	now := &openTopic{id: mt.ID, revision: mt.Revision, partitions: make([]*partition.Partition, n), failed: make([]error, n), roles: make([]assignment, n)}
	cfg, err := t.parse(mt)
	if err != nil {
		// Configs are validated before they are stored; an older or newer
		// Firn may have stored others. The topic stays closed, not guessed.
		t.log.Error("topic has a config that this version does not know; its partitions stay closed", "topic", mt.Name, "error", err)
		openFailures.Add(n)
		if was != nil {
			// What is open stays so, as it was: opening it a second time later
			// would give one folder two writers.
			copy(now.partitions, was.partitions)
			copy(now.roles, was.roles)
			now.config = was.config
		}
		return now
	}
	now.config = cfg
	sameConfig := was != nil && was.config == cfg
	pointers := t.tier.Pointers(context.Background(), mt.ID, t.toLead(mt, was))
	for i, mp := range mt.Partitions {
		var p *partition.Partition
		var before error
		if was != nil && i < len(was.partitions) {
			p, before = was.partitions[i], was.failed[i]
			now.roles[i] = was.roles[i]
		}
		if !slices.Contains(mp.Replicas, t.node) {
			if p != nil {
				work.follow = append(work.follow, func() { t.drop(mt, mp.ID, p) })
			}
			now.roles[i] = assignment{}
			continue
		}
		if p != nil {
			now.partitions[i] = p
			same := now.roles[i] == t.assignment(&mp)
			if !sameConfig {
				p.SetConfig(cfg.Partition)
				if same {
					t.tier.SetPolicy(mt.ID, mp.ID, policy(cfg, mp.Epoch))
				}
			}
			if same {
				continue
			}
		}
		old := now.roles[i]
		assign := func() {
			now.roles[i], now.failed[i] = t.assign(now.partitions[i], old, mt, &mp, cfg, pointers)
		}
		attach := func() {
			if now.failed[i] != nil || now.partitions[i] == nil || !t.leads(now.roles[i]) || t.leads(old) {
				return
			}
			if err := t.attach(now.partitions[i], mt, &mp, cfg, pointers); err != nil {
				now.roles[i], now.failed[i] = old, err
			}
		}
		switch {
		case p == nil:
			work.open = append(work.open, func() {
				p, err := t.openPartition(mt, mp, cfg)
				t.reportOpening(record.TopicPartition{Topic: mt.Name, Partition: mp.ID}, before, err)
				if now.partitions[i], now.failed[i] = p, err; err == nil {
					assign()
				}
			})
		case t.acting && mp.Leader == t.node:
			work.lead = append(work.lead, assign)
		default:
			work.follow = append(work.follow, assign)
		}
		if !cfg.Tiered && t.acting && mp.Leader == t.node {
			work.attach = append(work.attach, attach)
		}
	}
	return now
}

// leads says whether this broker leads by what was said to a partition.
func (t *topics) leads(a assignment) bool { return a.acting && a.leader == t.node }

// toLead counts a topic's partitions that this broker leads by mt and did not
// lead before.
func (t *topics) toLead(mt *metastore.Topic, was *openTopic) (n int) {
	for i := range mt.Partitions {
		led := was != nil && i < len(was.roles) && t.leads(was.roles[i])
		if t.leads(t.assignment(&mt.Partitions[i])) && !led {
			n++
		}
	}
	return n
}

// attach puts a partition that this broker leads now into tiering's charge.
func (t *topics) attach(p *partition.Partition, mt *metastore.Topic, mp *metastore.Partition, cfg topicconfig.Topic, pointers func(record.PartitionID) (metastore.TierPointer, error)) error {
	tp, err := pointers(mp.ID)
	if err == nil && cfg.Tiered {
		err = t.beginTiered(p, tp)
	}
	if err == nil {
		err = t.tier.Attach(p, tp, policy(cfg, mp.Epoch))
	}
	return err
}

// beginTime is how long a leader's begin at the tiered end may take that needs
// to be looked up in the object store.
const beginTime = 10 * time.Second

// beginTiered has a partition that this broker is to lead begin where the tiered
// part ends, if its log does not continue that. A pointer that is damaged is told
// by Attach.
func (t *topics) beginTiered(p *partition.Partition, tp metastore.TierPointer) error {
	end, err := t.tier.EndOf(p.TopicID(), p.TP(), tp)
	if err != nil || p.Continues(end) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), beginTime)
	defer cancel()
	if end, err = t.tier.ColdEnd(ctx, p.TopicID(), p.TP()); err != nil {
		return err
	}
	return p.BeginAtTiered(end)
}

// assignment is what mp says of the replica here.
func (t *topics) assignment(mp *metastore.Partition) assignment {
	a := assignment{acting: t.acting, leader: mp.Leader, epoch: mp.Epoch, revision: mp.Revision}
	for _, id := range mp.Replicas {
		a.unfenced += t.image.Unfenced[id].Epoch
	}
	return a
}

// assign tells a partition what it is now: leader, follower, or neither while
// this broker was not taken in under its registration, since what the metadata
// says of it is then from before. A leader of a tiered partition knows first
// what is in the object store.
func (t *topics) assign(p *partition.Partition, was assignment, mt *metastore.Topic, mp *metastore.Partition, cfg topicconfig.Topic, pointers func(record.PartitionID) (metastore.TierPointer, error)) (assignment, error) {
	now, rec := t.assignment(mp), controller.RecordOf(mp)
	if t.leads(was) && !t.leads(now) {
		t.tier.Detach(mt.ID, mp.ID)
	}
	switch {
	case t.leads(now):
		t.fetcher.Stop(mt.ID, mp.ID)
		rec.Unfenced = make([]int64, len(rec.Replicas))
		for i, id := range rec.Replicas {
			rec.Unfenced[i] = t.image.Unfenced[id].Epoch
		}
		if cfg.Tiered && !t.leads(was) {
			if err := t.attach(p, mt, mp, cfg, pointers); err != nil {
				return was, err
			}
		}
		p.Lead(rec)
		t.tier.SetPolicy(mt.ID, mp.ID, policy(cfg, mp.Epoch))
	case !now.acting:
		t.fetcher.Stop(mt.ID, mp.ID)
		p.Rest()
	default:
		if cfg.Tiered {
			if err := t.tier.Follow(p); err != nil {
				return was, err
			}
		}
		if err := p.Follow(rec); err != nil {
			return was, err
		}
		if now.leader == replica.None {
			t.fetcher.Stop(mt.ID, mp.ID)
		} else if now.leader != was.leader || now.epoch != was.epoch || !was.acting {
			t.fetcher.Follow(p, now.leader)
		}
	}
	return now, nil
}

// drop removes a replica that has its place elsewhere now.
func (t *topics) drop(mt *metastore.Topic, id record.PartitionID, p *partition.Partition) {
	t.fetcher.Stop(mt.ID, id)
	t.tier.Detach(mt.ID, id)
	if err := p.Delete(); err != nil {
		t.log.Error("the folder of a replica that was moved away could not be removed", "partition", p.TP().String(), "error", err)
	}
}

// parse fills in the broker's defaults. Where they contradict what the topic
// itself has (its local retention is the longer one, say), the table's stand in
// for them: a change of the broker's configs must not close a topic.
func (t *topics) parse(mt *metastore.Topic) (topicconfig.Topic, error) {
	cfg, err := topicconfig.Parse(mt.Configs, t.configs.TopicDefaults())
	if err != nil {
		var plain error
		if cfg, plain = topicconfig.Parse(mt.Configs, nil); plain != nil {
			return cfg, plain
		}
		t.log.Warn("the broker's defaults do not fit a topic's own configs; Kafka's defaults are used for it", "topic", mt.Name, "error", err)
	}
	cfg.Partition.ProducerIDExpiration = t.configs.Topics.ProducerIDExpiration
	cfg.Partition.MinInsync, cfg.Partition.ReplicaLag = cfg.MinInSyncReplicas, t.configs.Replication.Lag
	if mt.Internal {
		// Its coordinator says what may go (TrimTo). Kafka's internal topics
		// are compacted only, so that no retention takes from them either.
		cfg.Partition.DeleteOnRetention = false
		cfg.Partition.Fsync = true
	}
	return cfg, nil
}

func policy(cfg topicconfig.Topic, epoch record.Epoch) tiering.Policy {
	return tiering.Policy{
		Enabled:        cfg.Tiered && !cfg.Partition.RemoteCopyDisabled,
		Drop:           !cfg.Tiered && cfg.RemoteDelete,
		RetentionBytes: cfg.RetentionBytes,
		Retention:      cfg.Retention,
		Epoch:          epoch,
	}
}

// folder is where a partition's files are. The id keeps a topic apart from
// an earlier one of the same name; the name alone may be 249 bytes long.
func (t *topics) folder(topic string, id record.TopicID, p record.PartitionID) string {
	return filepath.Join(t.dir, topic, fmt.Sprintf("%d-%s", p, id.Hex()))
}

func (t *topics) openPartition(mt *metastore.Topic, mp metastore.Partition, cfg topicconfig.Topic) (*partition.Partition, error) {
	tp := record.TopicPartition{Topic: mt.Name, Partition: mp.ID}
	deps := partition.Deps{
		Log:           t.log,
		Cold:          t.tier,
		Broker:        t.node,
		Standby:       true,
		ISRWanted:     t.isrWanted,
		TieredRollAge: t.age,
		Journal:       t.journal,
		PowerLost:     t.powerLost,
		Failed: func(tp record.TopicPartition, err error) {
			t.fail(fmt.Errorf("partition %v: its disk failed: %w", tp, err))
		},
	}
	folder := t.folder(mt.Name, mt.ID, mp.ID)
	if err := commitlog.FinishRemoval(disk.Real(), folder); err != nil {
		return nil, fmt.Errorf("finish removing %s: %w", folder, err)
	}
	if !slices.Contains(mp.ISR, t.node) && !slices.Contains(mp.ELR, t.node) {
		t.forgetFormer(folder, journal.Partition{Topic: mt.ID, Index: int32(mp.ID)})
	}
	return partition.Open(folder, tp, mt.ID, cfg.Partition, deps)
}

// forgetFormer has a replica that is new here begin with nothing. It may have
// been here before: then its folder went, and what the journal had of it is only
// forgotten when the journal's files are used again. A log that went on from
// there would begin in the middle of the partition, and so would the partition
// under such a leader. Of a replica that counts as having records, a folder that
// is missing is another matter: no offset of it may be used twice.
func (t *topics) forgetFormer(folder string, p journal.Partition) {
	if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
		t.journal.Drop(p)
	}
}

// reportOpening says how opening a partition went, before being the error of
// the last try. The same one is not told again.
func (t *topics) reportOpening(tp record.TopicPartition, before, err error) {
	if err != nil && before == nil {
		openFailures.Inc()
	}
	switch {
	case err != nil && (before == nil || err.Error() != before.Error()):
		t.log.Error("partition does not open and is not served, the others are; it is tried again", "partition", tp.String(), "error", err)
	case err == nil && before != nil:
		partsReopened.Inc()
		t.log.Info("partition is open now", "partition", tp.String())
	}
}

// delete removes a topic that is no longer in the metadata, here and in the
// object store. Partitions that did not open lose their folders, too.
func (t *topics) delete(name string, ot *openTopic) {
	var work errgroup.Group
	work.SetLimit(closers)
	for i, p := range ot.partitions {
		id := record.PartitionID(i)
		t.fetcher.Stop(ot.id, id)
		t.tier.Detach(ot.id, id)
		work.Go(func() error {
			folder := t.folder(name, ot.id, id)
			var err error
			if p != nil {
				err = p.Delete()
			} else {
				err = commitlog.RemoveFolder(disk.Real(), folder)
			}
			if err != nil {
				t.log.Error("deleted partition's folder could not be removed", "topic", name, "partition", int32(id), "folder", folder, "error", err)
			}
			return nil
		})
	}
	_ = work.Wait()                       // each reports its own failure
	os.Remove(filepath.Join(t.dir, name)) // succeeds when it is empty, which is what is wanted
	t.groups.dropTopic(name, ot.id)
	t.tier.DropTopicSoon(ot.id)
}

// stop waits for an apply under way; none does anything from then on.
func (t *topics) stop() {
	t.applying <- struct{}{}
	t.stopped = true
	if t.retry != nil {
		t.retry.Stop()
	}
	<-t.applying
}

// close syncs and closes every partition; stop comes before it.
func (t *topics) close() error {
	var work errgroup.Group
	work.SetLimit(closers)
	var mu sync.Mutex
	var errs []error
	t.all(func(p *partition.Partition) {
		work.Go(func() error {
			if err := p.Close(); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("close %v: %w", p.TP(), err))
				mu.Unlock()
			}
			return nil
		})
	})
	_ = work.Wait() // the errors are in errs
	return errors.Join(errs...)
}
