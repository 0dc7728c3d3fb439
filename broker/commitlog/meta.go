package commitlog

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// Body of partition.meta (kind META, base offset = log start):
//
//	┌───────────┬────────────┬────────────────┬─────────┬────────────────┬────────────────┬──────────────┐
//	│topic id 16│local base 8│recovery point 8│ clean 1 │ log end 8 (*)  │active base 8(*)│active size8(*)│
//	└───────────┴────────────┴────────────────┴─────────┴────────────────┴────────────────┴──────────────┘
//	┌───────────┬────────────┐
//	│compacted 8│gaps below 8│ (**)
//	└───────────┴────────────┘
//
// Clean is 2 while the folder is being emptied. (*) only meaningful with clean
// = 1. (**) 0 in files that end before.
const (
	metaSize    = 73
	oldMetaSize = 57
)

// Meta is what partition.meta says.
type Meta struct {
	TopicID  record.TopicID
	LogStart record.Offset // first readable offset, hot or cold
	// LocalBase is where a folder without segments begins.
	LocalBase record.Offset
	// RecoveryPoint: everything before it was fsynced.
	RecoveryPoint record.Offset
	// Clean says that the log was closed properly and not written since; End,
	// ActiveBase and ActiveSize are then what the log must look like.
	Clean bool
	// Emptying says that no file of the folder counts any more.
	Emptying   bool
	End        record.Offset
	ActiveBase record.Offset
	ActiveSize int64
	// Compacted: of every key below it only the latest record is left.
	Compacted record.Offset
	// GapsBelow: segments that end at or below it may lack offsets, because
	// they were compacted, or were about to be.
	GapsBelow record.Offset
}

func (m Meta) encode() []byte {
	b := disk.BeginFrame(kindMeta, m.LogStart, metaSize)
	b = append(b, m.TopicID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(m.LocalBase))
	b = binary.BigEndian.AppendUint64(b, uint64(m.RecoveryPoint))
	state := byte(0)
	switch {
	case m.Emptying:
		state = 2
	case m.Clean:
		state = 1
	}
	b = append(b, state)
	b = binary.BigEndian.AppendUint64(b, uint64(m.End))
	b = binary.BigEndian.AppendUint64(b, uint64(m.ActiveBase))
	b = binary.BigEndian.AppendUint64(b, uint64(m.ActiveSize))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Compacted))
	b = binary.BigEndian.AppendUint64(b, uint64(m.GapsBelow))
	return disk.EndFrame(b)
}

// DecodeMeta reads a whole partition.meta. Errors wrap ErrFormat.
func DecodeMeta(b []byte) (Meta, error) {
	start, body, err := disk.OpenFrame[record.Offset](kindMeta, b)
	if err != nil {
		return Meta{}, err
	}
	if len(body) != metaSize && len(body) != oldMetaSize {
		return Meta{}, fmt.Errorf("%w: meta of %d bytes", ErrFormat, len(body))
	}
	m := Meta{LogStart: start}
	copy(m.TopicID[:], body)
	m.LocalBase = record.Offset(binary.BigEndian.Uint64(body[16:]))
	m.RecoveryPoint = record.Offset(binary.BigEndian.Uint64(body[24:]))
	m.Clean, m.Emptying = body[32] == 1, body[32] == 2
	m.End = record.Offset(binary.BigEndian.Uint64(body[33:]))
	m.ActiveBase = record.Offset(binary.BigEndian.Uint64(body[41:]))
	m.ActiveSize = int64(binary.BigEndian.Uint64(body[49:]))
	if len(body) == metaSize {
		m.Compacted = record.Offset(binary.BigEndian.Uint64(body[57:]))
		m.GapsBelow = record.Offset(binary.BigEndian.Uint64(body[65:]))
	}
	if m.LogStart < 0 || m.Compacted < 0 || m.GapsBelow < 0 || m.LocalBase < 0 || m.RecoveryPoint < 0 {
		return Meta{}, fmt.Errorf("%w: meta with a negative offset", ErrFormat)
	}
	return m, nil
}

// updateMeta changes partition.meta durably: f edits a copy, which becomes
// the truth once it is on disk.
func (l *Log) updateMeta(f func(*Meta)) error {
	l.metaMu.Lock()
	defer l.metaMu.Unlock()
	m := l.meta
	f(&m)
	m.Clean = m.Clean && !l.changed.Load()
	if m == l.meta {
		return nil
	}
	err := l.disk.Replace(filepath.Join(l.dir, metaName), m.encode())
	if err == nil {
		err = l.disk.SyncDir(l.dir)
	}
	if err == nil {
		l.meta = m
	}
	return err
}

// leader-epoch-checkpoint is text, so that a person can read it:
//
//	firn-leader-epochs 1
//	<epoch> <start offset>          one line per epoch, ascending
//	crc32c <8 hexadecimal digits>   of all lines before
const epochsTitle = "firn-leader-epochs 1\n"

func encodeEpochs(epochs []record.EpochStart) []byte {
	var b bytes.Buffer
	b.WriteString(epochsTitle)
	for _, e := range epochs {
		fmt.Fprintf(&b, "%d %d\n", e.Epoch, e.Start)
	}
	fmt.Fprintf(&b, "crc32c %08x\n", record.CRC32C(b.Bytes()))
	return b.Bytes()
}

// DecodeEpochs reads a whole leader-epoch-checkpoint. Errors wrap ErrFormat.
func DecodeEpochs(b []byte) ([]record.EpochStart, error) {
	cut := bytes.LastIndex(b, []byte("crc32c "))
	if cut < 0 || !bytes.HasPrefix(b, []byte(epochsTitle)) {
		return nil, fmt.Errorf("%w: not a leader epoch checkpoint", ErrFormat)
	}
	if want := fmt.Sprintf("crc32c %08x\n", record.CRC32C(b[:cut])); string(b[cut:]) != want {
		return nil, fmt.Errorf("%w: leader epoch checkpoint says %q, computed %q", ErrFormat, b[cut:], want)
	}
	var out []record.EpochStart
	sc := bufio.NewScanner(strings.NewReader(string(b[len(epochsTitle):cut])))
	for sc.Scan() {
		var e record.EpochStart
		if _, err := fmt.Sscanf(sc.Text(), "%d %d", &e.Epoch, &e.Start); err != nil {
			return nil, fmt.Errorf("%w: leader epoch line %q: %w", ErrFormat, sc.Text(), err)
		}
		if n := len(out); n > 0 && (e.Epoch <= out[n-1].Epoch || e.Start < out[n-1].Start) {
			return nil, fmt.Errorf("%w: leader epoch line %q does not ascend", ErrFormat, sc.Text())
		}
		out = append(out, e)
	}
	return out, nil
}
