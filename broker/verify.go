package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/firnlog/firn/broker/commitlog"
	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// ErrNoDataFolder says that a folder is not a broker's.
var ErrNoDataFolder = errors.New("not a data folder of firn")

// Verified is what Verify finds in a data folder.
type Verified struct {
	NodeID    int32
	ClusterID string
	// PowerLost says that the machine was started anew since the broker last
	// recovered: what was not synced may be there in part, in any order.
	PowerLost bool
	// Metadata is why the metadata cannot be read, nil when it can. Then the
	// folders' names say what there should be.
	Metadata error
	// Elsewhere says that the folder has no metadata, as that of a broker which is
	// no member of etcd: what there should be is not known. A broker on its own
	// has lost it.
	Elsewhere bool
	// Journal is why the journal does not open, nil when it does. Partitions
	// are then judged as if there were none.
	Journal    error
	Waiting    int   // partitions of which the journal has records
	Bytes      int64 // of those records
	Partitions []VerifiedPartition
	Strays     []string // folders of topics that the metadata does not have
}

// VerifiedPartition is one partition of Verified.
type VerifiedPartition struct {
	record.TopicPartition
	Folder string
	Absent bool // there is no folder, and there should be one
	Tiered bool // the metadata says so
	Others int  // brokers that have a replica too, by the metadata
	commitlog.Verified
}

// Gone is the offsets that the partition should have and that are neither on
// disk nor, as far as can be told without the store, in an object.
func (p *VerifiedPartition) Gone() commitlog.Range {
	if p.Missing.From < p.Missing.To {
		return p.Missing
	}
	if !p.Tiered && p.Local > p.Start {
		return commitlog.Range{From: p.Start, To: p.Local}
	}
	return commitlog.Range{}
}

// Lost says whether records that were acknowledged may be lost.
func (v *Verified) Lost(p *VerifiedPartition) bool {
	gone := p.Gone()
	// The folder of a partition that nothing was synced of is not synced.
	return len(p.Damage) > 0 || gone.From < gone.To || p.Absent && !v.PowerLost && p.End == 0 && p.Others == 0
}

// AtRisk says whether anything acknowledged may be lost.
func (v *Verified) AtRisk() bool {
	if v.Metadata != nil || v.Journal != nil {
		return true
	}
	for i := range v.Partitions {
		if v.Lost(&v.Partitions[i]) {
			return true
		}
	}
	return false
}

// Verify says what a start of the broker would find in a data folder that
// nobody uses, and do to it, without changing anything: recovery runs on a
// shadow of it in scratch, an empty folder of the caller's with room for copies
// of the metadata, the journal and a segment or two. given are the broker configs of
// the start; metadata is why the metadata cannot be read, where that is known
// (VerifyMetadata). progress is told how many of how many bytes were checked.
// Errors: ErrNoDataFolder, of ctx, and of reading or writing files.
func Verify(ctx context.Context, dir, scratch string, given map[string]string, metadata error, progress func(done, all int64)) (*Verified, error) {
	v := verifier{dir: dir, scratch: scratch, log: slog.New(slog.DiscardHandler), out: &Verified{Metadata: metadata}, progress: progress}
	if err := v.identify(); err != nil {
		return nil, err
	}
	var err error
	if v.out.PowerLost, err = restarted(dir); err != nil {
		return nil, err
	}
	c, err := newConfigs(given, v.log)
	if err != nil {
		return nil, err
	}
	c.id = fmt.Sprint(v.out.NodeID)
	img, err := v.metadata(ctx)
	if err != nil {
		return nil, err
	}
	v.topics = &topics{dir: filepath.Join(dir, "logs"), node: record.BrokerID(v.out.NodeID), log: v.log, configs: c.update(img)}
	todo, err := v.list(img)
	if err != nil {
		return nil, err
	}
	if err := v.openJournal(); err != nil {
		return nil, err
	}
	if v.journal != nil {
		defer v.closeJournal()
	}
	for _, p := range todo {
		if err := v.partition(ctx, p); err != nil {
			return nil, fmt.Errorf("verifying partition %v: %w", p.TopicPartition, err)
		}
	}
	return v.out, nil
}

// verifier is the work of one Verify.
type verifier struct {
	dir, scratch string
	log          *slog.Logger
	out          *Verified
	topics       *topics // never opened: for its rules
	journal      *journal.Journal
	all, done    int64
	progress     func(done, all int64)
}

// expected is a partition that should be there, or is.
type expected struct {
	VerifiedPartition
	id  record.TopicID
	cfg topicconfig.Topic
}

func (v *verifier) identify() error {
	raw, err := os.ReadFile(filepath.Join(v.dir, "firn.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is %w: it has no firn.json", v.dir, ErrNoDataFolder)
	}
	if err != nil {
		return err
	}
	var id identity
	if err := json.Unmarshal(raw, &id); err != nil || id.Version != layoutVersion {
		return fmt.Errorf("%s is %w that this version knows: its firn.json says %q", v.dir, ErrNoDataFolder, raw)
	}
	v.out.NodeID, v.out.ClusterID = id.NodeID, id.ClusterID
	return nil
}

// VerifyMetadata is the part of Verify that reads the metadata. Its database
// may end the process on damage: whoever wants to live calls it in a process
// of its own first.
func VerifyMetadata(ctx context.Context, dir, scratch string) error {
	v := verifier{dir: dir, scratch: scratch, log: slog.New(slog.DiscardHandler), out: &Verified{}}
	if err := v.identify(); err != nil {
		return err
	}
	_, err := v.metadata(ctx)
	return errors.Join(err, v.out.Metadata)
}

// metadata reads the metadata from a copy. Damage is noted; the image is
// empty then.
func (v *verifier) metadata(ctx context.Context) (*metastore.Image, error) {
	if v.out.Metadata != nil {
		return &metastore.Image{}, nil
	}
	home := filepath.Join(v.scratch, "metadata")
	from := filepath.Join(v.dir, "etcd")
	switch _, err := os.Stat(filepath.Join(from, "etcd")); {
	case errors.Is(err, fs.ErrNotExist):
		v.out.Elsewhere = true
		return &metastore.Image{}, nil
	case err != nil:
		v.out.Metadata = err
		return &metastore.Image{}, nil
	}
	if err := os.CopyFS(home, os.DirFS(from)); err != nil {
		return nil, fmt.Errorf("copying the metadata: %w", err)
	}
	s, err := metastore.Open(ctx, metastore.Config{Dir: home, Copy: true, BrokerID: record.BrokerID(v.out.NodeID), Host: "127.0.0.1"}, metastore.Deps{Log: v.log})
	if err != nil {
		v.out.Metadata = err
		return &metastore.Image{}, ctx.Err()
	}
	img := s.Image()
	if img.ClusterID != v.out.ClusterID {
		v.out.Metadata = fmt.Errorf("it is of cluster %s, the folder of %s", img.ClusterID, v.out.ClusterID)
	}
	return img, errors.Join(s.Close(ctx), os.RemoveAll(home))
}

// list finds the partitions that should be there by the metadata, and those
// that are.
func (v *verifier) list(img *metastore.Image) ([]expected, error) {
	var todo []expected
	known := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(img.Topics)) {
		mt := img.Topics[name]
		cfg, err := v.topics.parse(mt)
		if err != nil {
			return nil, fmt.Errorf("topic %s: %w", name, err)
		}
		for _, mp := range mt.Partitions {
			if !slices.Contains(mp.Replicas, v.topics.node) {
				continue
			}
			p := expected{id: mt.ID, cfg: cfg}
			p.TopicPartition = record.TopicPartition{Topic: name, Partition: mp.ID}
			p.Folder, p.Tiered = v.topics.folder(name, mt.ID, mp.ID), cfg.Partition.Tiered
			p.Others = len(mp.Replicas) - 1
			if _, err := os.Stat(p.Folder); err != nil || commitlog.Removing(p.Folder) {
				p.Absent = true
			}
			known[p.Folder] = true
			todo = append(todo, p)
		}
	}
	folders, err := filepath.Glob(filepath.Join(v.topics.dir, "*", "*"))
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		id, number, ok := partitionFolder(filepath.Base(folder))
		switch {
		case !ok || known[folder] || commitlog.Removing(folder): // a start deletes what is left of it
		case v.out.Metadata == nil && !v.out.Elsewhere:
			v.out.Strays = append(v.out.Strays, folder)
		default:
			p := expected{id: id}
			p.Topic, p.Partition, p.Folder = filepath.Base(filepath.Dir(folder)), number, folder
			todo = append(todo, p)
		}
	}
	for _, p := range todo {
		segments, err := filepath.Glob(filepath.Join(p.Folder, "*.log"))
		if err != nil {
			return nil, err
		}
		for _, s := range segments {
			if st, err := os.Stat(s); err == nil {
				v.all += st.Size()
			}
		}
	}
	return todo, nil
}

// openJournal opens a copy of the journal, which reads all of it.
func (v *verifier) openJournal() error {
	shadow, from := filepath.Join(v.scratch, "journal"), filepath.Join(v.dir, "journal")
	names, err := os.ReadDir(from)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var copies []string
	for _, e := range names {
		copies = append(copies, e.Name())
	}
	d, err := disk.Shadow(from, shadow, copies)
	if err != nil {
		return err
	}
	v.journal, err = journal.Open(shadow, journal.Config{FileBytes: journalFile}, journal.Deps{Disk: d, Log: v.log})
	if damaged, ok := errors.AsType[*journal.DamagedError](err); ok {
		damaged.Path = filepath.Join(v.dir, "journal", strings.TrimPrefix(damaged.Path, shadow))
		v.out.Journal = damaged
		return nil
	}
	if err != nil {
		return err
	}
	for _, p := range v.journal.Unclaimed() {
		refs := v.journal.Records(p)
		if len(refs) > 0 {
			v.out.Waiting++
		}
		for _, r := range refs {
			v.out.Bytes += int64(r.Len())
		}
	}
	return nil
}

// closeJournal ends the journal, of which only a shadow is left.
func (v *verifier) closeJournal() {
	for _, p := range v.journal.Unclaimed() {
		v.journal.Drop(p)
	}
	_ = v.journal.Close() // there is nothing to lose
}

func (v *verifier) partition(ctx context.Context, p expected) error {
	scratch := filepath.Join(v.scratch, "partition")
	cfg := p.cfg.Partition
	found, err := commitlog.Verify(ctx, p.Folder, scratch, p.id, commitlog.Config{SegmentBytes: cfg.SegmentBytes, IndexIntervalBytes: cfg.IndexIntervalBytes},
		commitlog.Deps{Log: v.log, Journal: v.journal, Partition: int32(p.Partition), PowerLost: v.out.PowerLost},
		func(n int64) {
			v.done += n
			v.progress(v.done, max(v.all, v.done))
		})
	if err != nil {
		return err
	}
	p.Verified = found
	v.out.Partitions = append(v.out.Partitions, p.VerifiedPartition)
	return os.RemoveAll(scratch)
}
