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
)

// maxFile bounds a configuration file in bytes; real ones are a few hundred.
const maxFile = 1 << 20

type fileValue struct {
	text string
	line int
}

// readFile reads a YAML file of settings: one mapping of names to plain
// values.
func readFile(path string) (map[string]fileValue, []error) {
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
		return nil, []error{&Error{Where: path, Reason: reason}}
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

func parseFile(path string, data []byte) (map[string]fileValue, []error) {
	at := func(line int, key, format string, args ...any) error {
		return &Error{Where: fmt.Sprintf("%s:%d", path, line), Key: key, Reason: fmt.Sprintf(format, args...)}
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil // empty, or comments only
	} else if err != nil {
		line, reason := 1, err.Error()
		if m := yamlLine.FindStringSubmatch(reason); m != nil {
			reason = m[2]
			if n, err := strconv.Atoi(m[1]); err == nil {
				line = n
			}
		}
		return nil, []error{at(line, "", "is not YAML: %s", reason)}
	}
	var next yaml.Node
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, []error{at(max(next.Line, 1), "", "holds a second document; put all settings into one")}
	}
	root := &doc
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, []error{at(root.Line, "", "is not a list of settings; write one NAME: VALUE per line")}
	}
	vals := map[string]fileValue{}
	var errs []error
	for i := 0; i+1 < len(root.Content); i += 2 {
		k, v := root.Content[i], root.Content[i+1]
		if err := takeSetting(vals, k, v); err != nil {
			errs = append(errs, at(k.Line, k.Value, "%s", err))
		}
	}
	return vals, errs
}

// takeSetting puts one entry of the file into vals.
func takeSetting(vals map[string]fileValue, k, v *yaml.Node) error {
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
		near := didYouMean(k.Value, names())
		if near == "" {
			near = "; the keys are " + strings.Join(names(), ", ")
		}
		return fmt.Errorf("unknown key%s", near)
	}
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
