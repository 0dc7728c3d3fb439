package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
)

func (a *app) logCommand() *cobra.Command {
	cmd := group("log", "Look into Firn's files", "Look into the files and objects that Firn writes. The broker need not run.", a.logDumpCommand(), a.logVerifyCommand())
	cmd.Example = "  firn log dump firn-data/logs/flights/0-*/*.log"
	return cmd
}

func (a *app) logDumpCommand() *cobra.Command {
	var batches, records bool
	cmd := &cobra.Command{
		Use:   "dump FILE...",
		Short: "Decode files and objects, and find damage in them",
		Long: `Decode files of a data folder or objects of an object store, whatever their kind:

  *.log                     a segment: its record batches
  *.index *.timeindex       its offset and time indexes
  *.txnindex                its aborted transactions
  *.snapshot                the state of producers
  leader-epoch-checkpoint   leader epochs and where they began
  partition.meta            what a partition remembers across restarts
  *.journal checkpoint      the journal: what was made durable before its segments were
  objects of the bucket     runs of segments, manifests, pointers
  chunk cache files         a range of an object

The kind is told from the name and from the first and last bytes. Checksums, lengths and
order are checked; the first damage is named with its byte position, and the exit code is 1.
With --output json it prints one object per line, each with a "kind".`,
		Example: `  firn log dump firn-data/logs/flights/0-*/*.log
  firn log dump --records firn-data/logs/flights/0-*/00000000000000000000.log
  firn log dump --output json firn-data/objects/*/*/*`,
		Args: args(cobra.MinimumNArgs(1), "the path of a file, or several"),
		RunE: func(cmd *cobra.Command, paths []string) error {
			out := newDumpOutput(a)
			d := dumper{out: out, batches: batches || records, records: records}
			var failed []error
			for _, p := range paths {
				if err := d.file(cmd.Context(), p); err != nil {
					failed = append(failed, err)
				}
			}
			if err := out.flush(); err != nil {
				return failf("", "write to standard output: %w", err)
			}
			return errors.Join(failed...)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&batches, "batches", false, "list the record batches of an object's runs and of the journal too (those of a segment always are)")
	f.BoolVarP(&records, "records", "r", false, "list every record")
	return cmd
}

// fileKind is one of the formats.
type fileKind string

const (
	kindSegment    fileKind = "segment"
	kindIndex      fileKind = "offset index"
	kindTimeIndex  fileKind = "time index"
	kindTxnIndex   fileKind = "transaction index"
	kindSnapshot   fileKind = "producer snapshot"
	kindEpochs     fileKind = "leader epochs"
	kindMeta       fileKind = "partition meta"
	kindJournal    fileKind = "journal"
	kindCheckpoint fileKind = "journal checkpoint"
	kindObject     fileKind = "object"
	kindManifest   fileKind = "manifest"
	kindPointer    fileKind = "pointer"
	kindChunk      fileKind = "cache chunk"
)

// Bytes that tell a kind, at the start of a file and at the end of one.
var (
	magics = map[string]fileKind{
		"FIRNCHNK": kindChunk, "FIRNMANI": kindManifest, "FIRNTPTR": kindPointer,
		"FIRNOIDX": kindIndex, "FIRNTIDX": kindTimeIndex, "FIRNTXNS": kindTxnIndex, "FIRNPROD": kindSnapshot, "FIRNMETA": kindMeta, "FIRNJCKP": kindCheckpoint,
		"firn-lea": kindEpochs,
	}
	objectEnd = []byte("FIRNOBJT")
	suffixes  = map[string]fileKind{".log": kindSegment, ".index": kindIndex, ".timeindex": kindTimeIndex, ".txnindex": kindTxnIndex, ".snapshot": kindSnapshot, ".journal": kindJournal}
	wholes    = map[string]fileKind{"leader-epoch-checkpoint": kindEpochs, "partition.meta": kindMeta, "checkpoint": kindCheckpoint}
)

// detect tells a file's kind: by its magic, and where that is damaged, by its
// name.
func detect(r io.ReaderAt, size int64, path string) (fileKind, bool) {
	head := make([]byte, 17)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", false
	}
	head = head[:n]
	if n >= 8 {
		if k, ok := magics[string(head[:8])]; ok {
			return k, true
		}
	}
	tail := make([]byte, len(objectEnd))
	if size >= int64(len(tail)) {
		if _, err := r.ReadAt(tail, size-int64(len(tail))); err == nil && bytes.Equal(tail, objectEnd) {
			return kindObject, true
		}
	}
	name := filepath.Base(path)
	if k, ok := wholes[name]; ok {
		return k, true
	}
	if k, ok := suffixes[filepath.Ext(strings.TrimSuffix(name, ".deleted"))]; ok {
		return k, true
	}
	if _, err := uuid.Parse(name); err == nil && len(name) == 36 {
		return kindObject, true
	}
	if n == 17 && head[16] == 2 {
		return kindSegment, true // a record batch v2
	}
	return "", false
}

// dumpOutput prints either lines for people or one JSON object per line.
type dumpOutput struct {
	json bool
	w    *bytes.Buffer
	to   io.Writer
	err  error
}

func newDumpOutput(a *app) *dumpOutput {
	return &dumpOutput{json: a.json(), w: &bytes.Buffer{}, to: a.out}
}

// line prints v as JSON or the text, whichever is wanted.
func (o *dumpOutput) line(v any, format string, args ...any) {
	if o.json {
		enc := json.NewEncoder(o.w)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil && o.err == nil {
			o.err = err
		}
	} else {
		fmt.Fprintf(o.w, format+"\n", args...)
	}
	if o.w.Len() > 64<<10 {
		_ = o.flush() // kept in o.err
	}
}

func (o *dumpOutput) flush() error {
	if _, err := o.w.WriteTo(o.to); err != nil && o.err == nil {
		o.err = err
	}
	return o.err
}

// whereFiles is what to do about a path that is none of a file of Firn's.
const whereFiles = "Firn's files lie in the --data folder of firn start (segments in logs/TOPIC/) and in its object store"

// openDump opens a file and tells its kind.
func openDump(path string) (*os.File, int64, fileKind, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, "", failf(whereFiles, "%w", err)
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case st.IsDir():
		err = failf("name the files in it, for example: firn log dump "+strings.TrimSuffix(path, "/")+"/*.log", "%s is a folder", path)
	case st.Size() == 0:
		if k, ok := detect(f, 0, path); ok && k == kindSegment {
			return f, 0, k, nil // a segment that was just begun
		}
		err = fmt.Errorf("%s is empty", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, "", err
	}
	kind, ok := detect(f, st.Size(), path)
	if !ok {
		f.Close()
		return nil, 0, "", failf(whereFiles, "%s is none of Firn's files: neither its name nor its first and last bytes are those of one", path)
	}
	return f, st.Size(), kind, nil
}
