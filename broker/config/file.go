package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/firnlog/firn/broker/brokerconfig"
)

// maxFile bounds a configuration file in bytes; real ones are a few hundred.
const maxFile = 1 << 20

type fileValue struct {
	text string
	line int
}

// contents is what a file says.
type contents struct {
	settings map[string]fileValue // by setting
	set      map[string]fileValue // broker configs, by name
}

// readFile reads a YAML file of settings: one mapping of names to plain
// values, and below "set" another one of broker configs.
func readFile(path string) (contents, []error) {
	data, err := readBounded(path)
	if err != nil {
		reason := err.Error()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			reason = "there is no such file"
			if abs, err := filepath.Abs(path); err == nil && abs != path {
				reason += " (looked for " + abs + ")"
			}
		case errors.Is(err, fs.ErrPermission):
			reason = "may not be read by this user"
		}
		return contents{}, []error{&Error{Where: path, Reason: reason}}
	}
	return parseFile(path, data)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("is larger than %s", FormatSize(maxFile))
	}
	return data, nil
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

func parseFile(path string, data []byte) (contents, []error) {
	at := func(line int, key, format string, args ...any) error {
		return &Error{Where: fmt.Sprintf("%s:%d", path, line), Key: key, Reason: fmt.Sprintf(format, args...)}
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return contents{}, nil // empty, or comments only
	} else if err != nil {
		line, reason := 1, err.Error()
		if m := yamlLine.FindStringSubmatch(reason); m != nil {
			reason = m[2]
			if n, err := strconv.Atoi(m[1]); err == nil {
				line = n
			}
		}
		return contents{}, []error{at(line, "", "is not YAML: %s", reason)}
	}
	var next yaml.Node
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		return contents{}, []error{at(max(next.Line, 1), "", "holds a second document; put all settings into one")}
	}
	root := &doc
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return contents{}, nil
	}
	if root.Kind != yaml.MappingNode {
		return contents{}, []error{at(root.Line, "", "is not a list of settings; write one NAME: VALUE per line")}
	}
	out := contents{settings: map[string]fileValue{}, set: map[string]fileValue{}}
	var errs []error
	for i := 0; i+1 < len(root.Content); i += 2 {
		k, v := root.Content[i], root.Content[i+1]
		if k.Kind == yaml.ScalarNode && k.Value == "set" {
			for _, e := range out.takeSet(v) {
				errs = append(errs, at(e.line, e.name, "%s", e.err))
			}
		} else if err := out.takeSetting(k, v); err != nil {
			errs = append(errs, at(k.Line, k.Value, "%s", err))
		}
	}
	return out, errs
}

// takeSetting puts one entry of the file into c.
func (c *contents) takeSetting(k, v *yaml.Node) error {
	if k.Kind != yaml.ScalarNode {
		return errors.New("a setting's name must be plain text")
	}
	known := false
	for i := range table {
		known = known || table[i].Name == k.Value
	}
	switch {
	case k.Value == "config":
		return errors.New("a file cannot name another file")
	case !known:
		if s := byKafkaName(k.Value); s != nil {
			return fmt.Errorf("unknown key; what Kafka calls %s is %s here", k.Value, s.Name)
		}
		if _, ok := brokerconfig.Lookup(k.Value); ok {
			return errors.New("is a broker config; put it below the key set:")
		}
		near := didYouMean(k.Value, names())
		if near == "" {
			near = "; the keys are " + strings.Join(names(), ", ")
		}
		return fmt.Errorf("unknown key%s", near)
	}
	return take(c.settings, k, v)
}

// setError is what is wrong with one entry below "set".
type setError struct {
	line int
	name string
	err  error
}

// takeSet puts the mapping below "set" into c. The names and values are
// checked with those of the other places.
func (c *contents) takeSet(m *yaml.Node) (errs []setError) {
	if m.Kind == yaml.AliasNode {
		m = m.Alias
	}
	if m.Kind != yaml.MappingNode {
		return []setError{{m.Line, "set", errors.New("must be a mapping: below it one NAME: VALUE per line, indented")}}
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		k, v := m.Content[i], m.Content[i+1]
		err := errors.New("a broker config's name must be plain text")
		if k.Kind == yaml.ScalarNode {
			err = take(c.set, k, v)
		}
		if err != nil {
			errs = append(errs, setError{k.Line, k.Value, err})
		}
	}
	return errs
}

// take puts one name and its plain value into vals.
func take(vals map[string]fileValue, k, v *yaml.Node) error {
	if first, twice := vals[k.Value]; twice {
		return fmt.Errorf("is set twice, first in line %d", first.line)
	}
	if v.Kind == yaml.AliasNode {
		v = v.Alias
	}
	switch {
	case v.Kind != yaml.ScalarNode:
		return errors.New("its value must be plain text or a number, not a list or a mapping")
	case v.Tag == "!!null":
		return errors.New("has no value; leave the line out to get the default")
	}
	vals[k.Value] = fileValue{v.Value, k.Line}
	return nil
}
