// X-Paste's and DiverGen's pool: a folder of RGBA pictures and a JSON of lists (reference/semantics.md §6).

#include "base/error.hpp"
#include "store/exchange/export_parts.hpp"

namespace divergen::store {

void export_pool(Export& work) {
  // {"<class>": ["*<path>", ...]}: classes count from 0, and "*" says that the picture is cut out already. Their loader
  // opens the path as it stands, so it begins with the folder's name as the user gave it.
  FileStream pool(work.folder.part() / "LVIS_instance_pools.json");
  ExportedSet pictures{"pictures", "images/*/*.png", "image/png", 0, 0};
  std::int32_t current = -1;
  std::int64_t number = 0;
  pool.write("{");
  for (const std::size_t i : work.entries) {
    const Instance instance = work.library.read(i);
    const std::int32_t cls = instance.category_id - 1;
    if (cls != current) {
      pool.write(cat(current < 0 ? "" : "],", "\n\"", cls, "\": ["));
      make_folder(work.folder.part() / "images" / std::to_string(cls));
      current = cls;
      number = 0;
    }
    const std::string file = cat("images/", cls, "/", number, ".png");
    work.folder.write(file, instance.png);
    pool.write((number == 0 ? "" : ", ") + nlohmann::json("*" + (work.folder.path() / file).string()).dump());
    work.note(instance, file);
    ++number;
    ++pictures.count;
    pictures.size += instance.png.size();
  }
  pool.write("]\n}\n");
  work.files.push_back({"LVIS_instance_pools.json", "application/json", pool.close(), pool.size()});
  work.sets.push_back(pictures);
}

}  // namespace divergen::store
